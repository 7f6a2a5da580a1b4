"""What ./scripts/test brings up, and which tests it selects."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console
from trainyard_cli import paths, platform, tests_command
from trainyard_cli.errors import CliError
from trainyard_cli.stages import Stages

SUITE = """
import pytest

def test_plain():
    pass

@pytest.mark.alone
def test_alone():
    pass

@pytest.mark.nightly
def test_nightly():
    pass

@pytest.mark.exhaustive
def test_exhaustive():
    pass

@pytest.mark.alone
@pytest.mark.nightly
def test_alone_nightly():
    pass
"""


# What is collected for each -m, in one process.
COLLECT = """
import sys
import pytest
for markers in sys.argv[1:]:
    pytest.main(["-q", "--collect-only", "-m", markers, "."])
    print("===")
"""


def test_slow_tests_run_only_when_asked_for(tmp_path: Path) -> None:
    cases = [
        ("", True, False, {"plain", "alone"}),
        ("", False, False, {"plain", "alone", "exhaustive"}),
        ("", False, True, {"plain", "alone", "exhaustive", "nightly", "alone_nightly"}),
        ("", True, True, {"plain", "alone", "nightly", "alone_nightly"}),
        ("not alone", False, False, {"plain", "exhaustive"}),
        ("alone", False, False, {"alone"}),
        ("alone", False, True, {"alone", "alone_nightly"}),
    ]
    (tmp_path / "test_it.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  alone\n  exhaustive\n  nightly\n")
    markers = [
        tests_command.marker_expression(selected, tests_command.left_out(fast_alone=fast, nightly=nightly))
        for selected, fast, nightly, _ in cases
    ]
    command = [sys.executable, "-c", COLLECT, *markers]
    plain = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=plain, check=True, capture_output=True, text=True)
    collected = [
        {line.partition("::test_")[2] for line in part.splitlines() if "::" in line}
        for part in done.stdout.split("===\n")[:-1]
    ]
    assert collected == [names for *_, names in cases]


def suites_of(tmp_path: Path) -> tuple[tests_command.Suites, Console]:
    console = Console(record=True, width=200)
    return tests_command.Suites(Stages(console), [], tmp_path, ()), console


def test_suites_run_two_at_a_time(tmp_path: Path) -> None:
    suites, _ = suites_of(tmp_path)
    ended: list[str] = []
    both, third = threading.Barrier(2, timeout=20), threading.Event()

    def run(name: str) -> None:
        with suites.stages(name):
            both.wait()
            ended.append(name)

    def last() -> None:
        assert len(ended) > 0, "it waits for one of the two"
        third.set()

    suites.run_at_once(lambda: run("a"), lambda: run("b"), last)
    assert sorted(ended) == ["a", "b"] and third.is_set()


def test_after_a_suite_that_failed_no_other_one_begins(tmp_path: Path) -> None:
    suites, _ = suites_of(tmp_path)
    both = threading.Barrier(2, timeout=20)
    begun: list[str] = []

    def failing() -> None:
        both.wait()
        raise CliError("chart tests failed")

    def other() -> None:
        begun.append("other")
        both.wait()

    with pytest.raises(CliError, match="chart tests failed"):
        suites.run_at_once(other, failing, lambda: begun.append("queued"))
    assert begun == ["other"]


def test_what_suites_say_is_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in one piece, when it has ended."""
    script = tmp_path / "_python"
    script.write_text('#!/bin/sh\nfor line in 1 2 3; do echo "$3 $line"; sleep 0.1; done\n')
    script.chmod(0o755)
    monkeypatch.setattr(tests_command.paths, "DEV", (str(script), "--dev"))
    suites, console = suites_of(tmp_path)
    suites.run_at_once(lambda: suites.run("a"), lambda: suites.run("b"))
    said = [line for line in console.export_text().splitlines() if line.startswith("tests/")]
    one, other = ([f"tests/{name} {number}" for number in (1, 2, 3)] for name in "ab")
    assert said in ([*one, *other], [*other, *one])


def test_end_to_end_tests_take_back_what_broken_off_ones_left_with_argo_cd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: list[platform.Way] = []

    def bring_up(*_: object, way: platform.Way, **__: object) -> None:
        ways.append(way)
        raise CliError("no cluster here", "")

    monkeypatch.setattr(paths, "HOME", tmp_path)
    monkeypatch.setattr(platform, "bring_up", bring_up)
    with Stages() as stages, pytest.raises(CliError, match="no cluster here"):
        tests_command.run_tests(stages, [], fast=False, e2e=True)
    (way,) = ways
    assert way.take_ownership and not way.gitops
