"""What ./scripts/test brings up, and which tests it selects."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
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

@pytest.mark.alone
@pytest.mark.nightly
def test_alone_nightly():
    pass
"""


@pytest.mark.parametrize(
    ("selected", "nightly", "names"),
    [
        ("", False, {"plain", "alone"}),
        ("", True, {"plain", "alone", "nightly", "alone_nightly"}),
        ("not alone", False, {"plain"}),
        ("not alone", True, {"plain", "nightly"}),
        ("alone", False, {"alone"}),
        ("alone", True, {"alone", "alone_nightly"}),
    ],
)
def test_nightly_tests_run_only_when_asked_for(
    tmp_path: Path, selected: str, nightly: bool, names: set[str]
) -> None:
    (tmp_path / "test_it.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  alone\n  nightly\n")
    markers = tests_command.marker_expression(selected, nightly=nightly)
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", markers, "."]
    plain = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    collected = subprocess.run(
        command, cwd=tmp_path, env=plain, check=True, capture_output=True, text=True
    ).stdout
    assert {line.partition("::test_")[2] for line in collected.splitlines() if "::" in line} == names


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
