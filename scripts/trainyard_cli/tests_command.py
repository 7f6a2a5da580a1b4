"""Runs every test: linters, then what needs no cluster, then the end-to-end tests on the kind cluster."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from . import cluster, host, images, node_image, paths, platform, slowest, toolchain
from .errors import CliError
from .stages import Stages

DEV = paths.ROOT / "scripts/_python"
# pytest's exit code for "no test was selected", which is right for a suite that -k leaves out.
NOTHING_SELECTED = 5
# Two cores are used; a module stays in one process, with its fixtures. The plugin is for a cluster, and
# takes half a second in each process.
TWO_PROCESSES = ("-n", "2", "--dist", "loadscope", "-p", "no:helm-charts")
# The trainer's tests wait as much as they compute: for epochs, servers and signals.
TRAINER_PROCESSES = ("-n", "3")
# On the shared cluster the order matters: a file's tests share runs that take minutes, and a later test may
# break what an earlier one looks at. Every other suite runs in random order (its seed is in the output).
IN_ORDER = ("-v", "-p", "no:randomly")
ALL_FILES = ("--all-files",)
REPORTS_IN_CONTAINER = "/reports"


def lint(stages: Stages, arguments: Sequence[str]) -> None:
    """Run the linters of .pre-commit-config.yaml: `pre-commit run` with these arguments."""
    with stages("tools") as stage:
        path = _on_path(toolchain.helm(stage), toolchain.actionlint(stage))
    with stages("test environment"):
        _show(stages.console, "test environment", [DEV, "--dev", "true"])
    with stages("lint"):
        # Checking again what has not changed takes most of the linters' time.
        environment = {"MYPY_CACHE_DIR": str(paths.HOME / "mypy"), **path}
        _show(stages.console, "lint", [DEV, "--dev", "pre-commit", "run", *arguments], environment)


def run_tests(
    stages: Stages, pytest_args: list[str], *, fast: bool, e2e: bool, nightly: bool = False
) -> None:
    """Do all set-up and run the tests; CliError after the first stage that fails.

    ``nightly`` adds the tests with that marker.
    """
    paths.HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.HOME, prefix="reports-") as reports:
        suites = Suites(stages, pytest_args, Path(reports), nightly=nightly)
        try:
            if fast:
                _run_fast(suites)
            if e2e:
                _run_e2e(suites)
        finally:
            suites.show_slowest()


def _run_fast(suites: Suites) -> None:
    lint(suites.stages, ALL_FILES)
    for name in ("cli", "dags", "gpu_simulator", "dag_publisher"):
        suites.run(name)
    with suites.stages("tools") as stage:
        path = _on_path(toolchain.helm(stage), toolchain.kube_score(stage))
    suites.run("chart", env=path)
    with suites.stages("docker") as stage:
        host.ensure_docker(stage)
    suites.run_trainer()


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


def marker_expression(selected: str, *, nightly: bool) -> str:
    """Return pytest's -m: what ``selected`` says, without the nightly tests unless they are wanted."""
    return " and ".join(filter(None, (selected, "" if nightly else "not nightly")))


class Suites:
    """Runs pytest on one suite after the other, each as a stage, and remembers how long their tests took."""

    def __init__(self, stages: Stages, args: list[str], reports: Path, *, nightly: bool) -> None:
        self.stages = stages
        self._args = args
        self._reports = reports
        self._nightly = nightly
        # The trainer's tests write their report as another user.
        reports.chmod(0o777)

    def run(
        self,
        suite: str,
        name: str = "",
        *,
        env: Mapping[str, str] | None = None,
        options: tuple[str, ...] = TWO_PROCESSES,
        selected: str = "",
    ) -> None:
        """Run the tests in tests/<suite> whose markers are as ``selected`` says."""
        name = name or f"{suite} tests"
        with self.stages(name):
            pytest: list[str | Path] = [DEV, "--dev", "pytest", f"tests/{suite}", *options]
            self._show(name, [*pytest, *self._options(self._reports / f"{name}.xml", selected)], env)

    def run_trainer(self) -> None:
        """Run the trainer's tests where the trainer runs: in its image."""
        name = "trainer tests"
        with self.stages(name) as stage:
            image = "trainyard/trainer-test:latest"
            store = {"VERSITYGW_IMAGE": images.ensure_built(stage, "versitygw")}
            images.build("trainer", image, node_image.base_image(stage), target="test", arguments=store)
            volumes = ["-v", f"{paths.ROOT}:/src:ro", "-v", f"{self._reports}:{REPORTS_IN_CONTAINER}"]
            pytest: list[str | Path] = [
                "pytest",
                "tests/trainer",
                "-p",
                "no:cacheprovider",
                *TRAINER_PROCESSES,
            ]
            options = self._options(Path(REPORTS_IN_CONTAINER) / f"{name}.xml")
            self._show(name, [host.docker(), "run", "--rm", *volumes, "-w", "/src", image, *pytest, *options])

    def show_slowest(self) -> None:
        """Show the slowest tests of all suites that ran."""
        tests = [test for report in sorted(self._reports.glob("*.xml")) for test in slowest.read(report)]
        if tests:
            self.stages.console.print(slowest.table(tests))

    def _options(self, report: Path, selected: str = "") -> list[str]:
        markers = marker_expression(selected, nightly=self._nightly)
        colour = ["--color=yes"] if self.stages.console.is_terminal else []
        return [*(["-m", markers] if markers else []), f"--junit-xml={report}", *colour, *self._args]

    def _show(self, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        allowed = (0, NOTHING_SELECTED) if self._args else (0,)
        _show(self.stages.console, name, command, env, allowed)


def _on_path(*programs: Path) -> dict[str, str]:
    """Return the environment in which the programs are found by name."""
    return {"PATH": os.pathsep.join([*(str(each.parent) for each in programs), os.environ["PATH"]])}


def _show(
    console: Console,
    name: str,
    command: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    allowed: tuple[int, ...] = (0,),
) -> None:
    """Run a command in the repository and pass its output on line by line, above the progress line."""
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
            console.print(Text.from_ansi(line.rstrip("\n")), soft_wrap=True)
    if process.returncode not in allowed:
        raise CliError(f"{name} failed (exit code {process.returncode})", "see the output above")
