"""Runs every test: linters, then what needs no cluster, then the end-to-end tests on the kind cluster."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from . import cluster, host, images, node_image, paths, platform, toolchain
from .errors import CliError
from .stages import Stages

DEV = paths.ROOT / "scripts/_python"
# pytest's exit code for "no test was selected", which is right for a suite that -k leaves out.
NOTHING_SELECTED = 5
# Two cores are used; a module stays in one process, with its fixtures.
TWO_PROCESSES = ("-n", "2", "--dist", "loadscope")
# The trainer's tests wait as much as they compute: for epochs, servers and signals.
TRAINER_PROCESSES = ("-n", "3")


def run_tests(stages: Stages, pytest_args: list[str], *, fast: bool, e2e: bool) -> None:
    """Do all set-up and run the tests; CliError after the first stage that fails."""
    if fast:
        with stages("test environment"):
            _show(stages.console, "test environment", [DEV, "--dev", "true"])
        with stages("lint"):
            # Checking anew what has not changed takes most of the linters' time.
            cache = {"MYPY_CACHE_DIR": str(paths.HOME / "mypy")}
            _show(stages.console, "lint", [DEV, "--dev", "pre-commit", "run", "--all-files"], cache)
        for suite in ("cli", "dags", "gpu_simulator"):
            _pytest(stages, suite, pytest_args)
    with stages("docker") as stage:
        host.ensure_docker(stage)
    with stages("tools") as stage:
        tools = toolchain.ensure(stage)
    path = {"PATH": os.pathsep.join([str(tools.helm.parent), str(tools.kubectl.parent), os.environ["PATH"]])}
    if fast:
        _pytest(stages, "chart", pytest_args, path)
        _trainer_tests(stages, pytest_args)
    if e2e:
        with platform.only_one():
            platform.bring_up(stages, cluster.chosen_ports(None, None), [], remake=True)
        env = {**path, "KUBECONFIG": str(paths.KUBECONFIG)}
        side_by_side = ("-v", "-m", "not alone", "-n", "2", "--dist", "loadfile")
        _pytest(stages, "e2e", pytest_args, env, name="e2e tests, two at once", options=side_by_side)
        # Outside the lock: a test runs ./scripts/up itself.
        alone = ("-v", "-m", "alone")
        _pytest(stages, "e2e", pytest_args, env, name="e2e tests, one by one", options=alone)


def _pytest(
    stages: Stages,
    suite: str,
    args: list[str],
    env: Mapping[str, str] | None = None,
    *,
    name: str = "",
    options: tuple[str, ...] = TWO_PROCESSES,
) -> None:
    name = name or f"{suite} tests"
    with stages(name):
        _show(
            stages.console,
            name,
            [DEV, "--dev", "pytest", f"tests/{suite}", *options, *_colour(stages.console), *args],
            env,
            allowed=(0, NOTHING_SELECTED) if args else (0,),
        )


def _trainer_tests(stages: Stages, args: list[str]) -> None:
    """The trainer's tests run where the trainer runs: in its image."""
    with stages("trainer tests") as stage:
        image = "trainyard/trainer-test:latest"
        images.build("trainer", image, node_image.base_image(stage), target="test")
        command = [host.docker(), "run", "--rm", "-v", f"{paths.ROOT}:/src:ro", "-w", "/src", image]
        pytest = ("pytest", "tests/trainer", "-p", "no:cacheprovider", *TRAINER_PROCESSES)
        command += [*pytest, *_colour(stages.console), *args]
        _show(stages.console, "trainer tests", command, allowed=(0, NOTHING_SELECTED) if args else (0,))


def _colour(console: Console) -> list[str]:
    return ["--color=yes"] if console.is_terminal else []


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
