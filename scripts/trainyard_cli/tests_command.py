"""Runs every test: linters, then what needs no cluster, then the end-to-end tests on the kind cluster."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from . import cluster, host, images, node_image, paths, platform, slowest, toolchain
from .errors import CliError
from .stages import Stage, Stages

# pytest's exit code for "no test was selected", which is right for a suite that -k leaves out.
NOTHING_SELECTED = 5
# The plugin is for a cluster, and takes half a second in each process.
ONE_PROCESS = ("-p", "no:helm-charts")
# A module stays in one process, with its fixtures.
TWO_PROCESSES = (*ONE_PROCESS, "-n", "2", "--dist", "loadscope")
# A suite in one process imports Airflow and starts its servers once. What it leaves of its core as it waits
# is for the longest suite, which has two processes.
SUITES_AT_ONCE = 2
# How far pytest is, at the end of a line of dots.
PROGRESS = re.compile(r"\[ *[0-9]+%\]")
# On the shared cluster the order matters: a file's tests share runs that take minutes, and a later test may
# break what an earlier one looks at. Every other suite runs in random order (its seed is in the output).
IN_ORDER = ("-v", "-p", "no:randomly")
ALL_FILES = ("--all-files",)
REPORTS_IN_CONTAINER = "/reports"


def lint(stages: Stages, arguments: Sequence[str]) -> None:
    """Run the linters of .pre-commit-config.yaml: `pre-commit run` with these arguments."""
    with stages("tools") as stage:
        path = _on_path(toolchain.helm(stage), toolchain.actionlint(stage))
    with stages("test environment") as stage:
        _show(stages.console, stage, [*paths.DEV, "true"])
    with stages("lint") as stage:
        # Checking again what has not changed takes most of the linters' time.
        environment = {"MYPY_CACHE_DIR": str(paths.HOME / "mypy"), **path}
        _show(stages.console, stage, [*paths.DEV, "pre-commit", "run", *arguments], environment)


def run_tests(
    stages: Stages,
    pytest_args: list[str],
    *,
    fast: bool,
    e2e: bool,
    nightly: bool = False,
    cuda: bool = False,
) -> None:
    """Do all set-up and run the tests; CliError after the first stage that fails.

    ``nightly`` adds the tests with that marker; ``fast`` alone leaves out those that are ``exhaustive``.
    ``cuda`` adds those of the trainer with PyTorch's CUDA build.
    """
    paths.HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.HOME, prefix="reports-") as reports:
        without = left_out(fast_alone=fast and not e2e, nightly=nightly)
        suites = Suites(stages, pytest_args, Path(reports), without)
        try:
            if fast:
                _run_fast(suites)
            if e2e:
                _run_e2e(suites)
            if cuda:
                _run_cuda(suites)
        finally:
            suites.show_slowest()


def _run_fast(suites: Suites) -> None:
    lint(suites.stages, ALL_FILES)
    with suites.stages("tools") as stage:
        path = _on_path(toolchain.helm(stage), toolchain.kube_score(stage))
    with suites.stages("docker") as stage:
        host.ensure_docker(stage)
    short = [partial(suites.run, name) for name in ("cli", "gpu_simulator", "dag_publisher")]
    # Helm ends before its memory matters; collecting it is a fifth of the time of a render.
    env = {**path, "GOGC": "off"}
    # The longest ones first, so that the last ones end together.
    chart, dags = partial(suites.run, "chart", env=env, options=TWO_PROCESSES), partial(suites.run, "dags")
    suites.run_at_once(chart, dags, suites.run_trainer, suites.run_mlflow, *short)


def _run_e2e(suites: Suites) -> None:
    with platform.only_one():
        # The tests hand the release over to Argo CD and back: those that were broken off left it there.
        way = platform.Way(take_ownership=True, with_argocd=True)
        platform.bring_up(suites.stages, cluster.chosen_ports(None, None), [], remake=True, way=way)
    with suites.stages("tools") as stage:
        tools = toolchain.ensure(stage)
    env = {**_on_path(tools.helm, tools.kubectl), "KUBECONFIG": str(paths.KUBECONFIG)}
    two_at_once = (*IN_ORDER, "-n", "2", "--dist", "loadfile")
    suites.run("e2e", "e2e tests, two at once", env=env, options=two_at_once, selected="not alone")
    # Outside the lock: a test runs ./scripts/up itself.
    suites.run("e2e", "e2e tests, one by one", env=env, options=IN_ORDER, selected="alone")


def _run_cuda(suites: Suites) -> None:
    with suites.stages("docker") as stage:
        host.ensure_docker(stage)
    suites.run_trainer("cuda-test")


def left_out(*, fast_alone: bool, nightly: bool) -> tuple[str, ...]:
    """Return the markers of the tests that do not run."""
    return (*(() if nightly else ("nightly",)), *(("exhaustive",) if fast_alone else ()))


def marker_expression(selected: str, without: Sequence[str]) -> str:
    """Return pytest's -m: what ``selected`` says, without the tests with one of these markers."""
    return " and ".join(filter(None, (selected, *(f"not {marker}" for marker in without))))


class Suites:
    """Runs pytest on one suite after the other, each as a stage, and remembers how long their tests took."""

    def __init__(self, stages: Stages, args: list[str], reports: Path, without: Sequence[str]) -> None:
        self.stages = stages
        self._args = args
        self._reports = reports
        self._without = without
        self._live = True  # is output shown line by line?
        # The trainer's tests write their report as another user.
        reports.chmod(0o777)

    def run_at_once(self, *runs: Callable[[], None]) -> None:
        """Run suites in their order, two at a time; after one that fails no further one begins.

        The output of each is shown when it has ended.
        """
        over = threading.Event()

        def begin(run: Callable[[], None]) -> None:
            if over.is_set():
                return
            try:
                run()
            except BaseException:
                over.set()
                raise

        self._live = False
        with ThreadPoolExecutor(SUITES_AT_ONCE) as pool:
            futures = [pool.submit(begin, run) for run in runs]
            try:
                wait(futures)
            except BaseException:  # Ctrl-C, which the suites that run get as well
                over.set()
                raise
        self._live = True
        for future in futures:
            future.result()

    def run(
        self,
        suite: str,
        name: str = "",
        *,
        env: Mapping[str, str] | None = None,
        options: tuple[str, ...] = ONE_PROCESS,
        selected: str = "",
    ) -> None:
        """Run the tests in tests/<suite> whose markers are as ``selected`` says."""
        name = name or f"{suite} tests"
        with self.stages(name) as stage:
            pytest: list[str | Path] = [*paths.DEV, "pytest", f"tests/{suite}", *options]
            self._show(stage, [*pytest, *self._options(self._reports / f"{name}.xml", selected)], env)

    def run_trainer(self, target: str = "test") -> None:
        """Run the trainer's tests where the trainer runs: in its image. ``target`` is that of its build."""
        # Of threads in several processes, some only spin until the others have had a core.
        one_thread = ["-e", "OMP_NUM_THREADS=1"]
        with self.stages("trainer tests") as stage:
            store = {"VERSITYGW_IMAGE": images.ensure_built(stage, "versitygw")}
            self._run_in_image(
                stage, "trainer", target=target, options=["-n", "2"], docker=one_thread, arguments=store
            )

    def run_mlflow(self) -> None:
        """Run the tests of MLflow's login in its image."""
        with self.stages("mlflow tests") as stage:
            self._run_in_image(stage, "mlflow")

    def _run_in_image(
        self,
        stage: Stage,
        name: str,
        *,
        target: str = "test",
        options: Sequence[str] = (),
        docker: Sequence[str] = (),
        arguments: Mapping[str, str] | None = None,
    ) -> None:
        """Run tests/<name> in the image of images/<name> whose target is ``target``.

        ``arguments`` are of its build, ``docker`` of the container, ``options`` of pytest.
        """
        image = f"trainyard/{name}-{target}:latest"
        images.build(name, image, node_image.base_image(stage), target=target, arguments=arguments)
        volumes = ["-v", f"{paths.ROOT}:/src:ro", "-v", f"{self._reports}:{REPORTS_IN_CONTAINER}"]
        container = [host.docker(), "run", "--rm", *volumes, *docker, "-w", "/src", image]
        pytest = ["pytest", f"tests/{name}", "-p", "no:cacheprovider", *options]
        reports = self._options(Path(REPORTS_IN_CONTAINER) / f"{stage.name}.xml")
        self._show(stage, [*container, *pytest, *reports])

    def show_slowest(self) -> None:
        """Show the slowest tests of all suites that ran."""
        tests = [test for report in sorted(self._reports.glob("*.xml")) for test in slowest.read(report)]
        if tests:
            self.stages.console.print(slowest.table(tests))

    def _options(self, report: Path, selected: str = "") -> list[str]:
        markers = marker_expression(selected, self._without)
        colour = ["--color=yes"] if self.stages.console.is_terminal else []
        return [*(["-m", markers] if markers else []), f"--junit-xml={report}", *colour, *self._args]

    def _show(
        self, stage: Stage, command: Sequence[str | Path], env: Mapping[str, str] | None = None
    ) -> None:
        allowed = (0, NOTHING_SELECTED) if self._args else (0,)
        _show(self.stages.console, stage, command, env, allowed, live=self._live)


def _on_path(*programs: Path) -> dict[str, str]:
    """Return the environment in which the programs are found by name."""
    return {"PATH": os.pathsep.join([*(str(each.parent) for each in programs), os.environ["PATH"]])}


def _show(
    console: Console,
    stage: Stage,
    command: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    allowed: tuple[int, ...] = (0,),
    *,
    live: bool = True,
) -> None:
    """Run a command in the repository and show its output above the lines of progress.

    If not ``live``, the output is shown in one piece at the end, and how far pytest is meanwhile.
    """
    held: list[str] = []
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=paths.ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if live:
                console.print(Text.from_ansi(line.rstrip("\n")), soft_wrap=True)
                continue
            held.append(line)
            if progress := PROGRESS.search(line):
                stage.update(progress[0])
    if held:
        console.print(Text.from_ansi("".join(held).rstrip("\n")), soft_wrap=True)
    if process.returncode not in allowed:
        raise CliError(f"{stage.name} failed (exit code {process.returncode})", "see the output above")
