"""The slowest tests of all suites, from pytest's own reports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from trainyard_cli import slowest

SUITE = """
import time

import pytest

def test_quick():
    pass

@pytest.mark.parametrize("case", ["one"])
def test_slow(case):
    time.sleep(0.3)
"""


@pytest.fixture
def report(tmp_path: Path) -> Path:
    (tmp_path / "test_it.py").write_text(SUITE)
    report = tmp_path / "cli tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", "."]
    plain = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run(command, cwd=tmp_path, env=plain, check=True, capture_output=True)
    return report


def test_tests_are_read_from_pytests_report(report: Path) -> None:
    found = {each.test: each for each in slowest.read(report)}
    assert found.keys() == {"test_it::test_quick", "test_it::test_slow[one]"}
    assert found["test_it::test_slow[one]"].seconds >= 0.3
    assert {each.stage for each in found.values()} == {"cli tests"}


def test_the_table_shows_the_slowest_of_all_suites_first() -> None:
    tests = [slowest.Timed("a tests", f"test_a::test_{number}", number) for number in range(10)]
    tests += [slowest.Timed("b tests", f"test_b::test_{number}", number + 0.5) for number in range(10)]
    console = Console(width=100, record=True)
    console.print(slowest.table(tests))
    lines = console.export_text().splitlines()[1:]
    assert lines[0].split() == ["test_b::test_9", "b", "tests", "9.5"]
    assert lines[1].split() == ["test_a::test_9", "a", "tests", "9.0"]
    assert len(lines) == slowest.SHOWN
