"""The packaged chart: the same bytes each time, and a chart as good as the directory."""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from trainyard_cli import chart, chart_package, paths

HELM = Path(shutil.which("helm") or "helm")
VERSION = "1.2.3-gabc"


def rendered(source: Path) -> str:
    command = [HELM, "template", "release", source, f"--values={paths.ROOT / 'values/kind.yaml'}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_same_files_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = chart_package.package(HELM, tmp_path / "first", VERSION)
    copy = tmp_path / "checkout/trainyard"
    shutil.copytree(chart.CHART, copy, symlinks=True)
    for file in copy.rglob("*"):  # another checkout, on another day, with other rights
        if not file.is_symlink():
            os.utime(file, (1_700_000_000, 1_700_000_000))
            file.chmod(0o700)
    monkeypatch.setattr(chart, "CHART", copy)
    second = chart_package.package(HELM, tmp_path / "second", VERSION)
    assert first.read_bytes() == second.read_bytes()
    # helm tells the registry when the file was made.
    assert first.stat().st_mtime == second.stat().st_mtime

    (copy / "values.yaml").write_text((copy / "values.yaml").read_text() + "# changed\n")
    changed = chart_package.package(HELM, tmp_path / "changed", VERSION)
    assert changed.read_bytes() != first.read_bytes()


def test_source_date_epoch_is_the_time_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    with tarfile.open(chart_package.package(HELM, tmp_path, VERSION)) as archive:
        assert {member.mtime for member in archive} == {1600000000}


def test_the_package_renders_like_the_directory(tmp_path: Path) -> None:
    package = chart_package.package(HELM, tmp_path, "0.1.0")
    assert package.name == "trainyard-0.1.0.tgz"
    assert rendered(package) == rendered(chart.CHART)


def test_the_package_has_the_charts_version(tmp_path: Path) -> None:
    package = chart_package.package(HELM, tmp_path, VERSION)
    shown = subprocess.run([HELM, "show", "chart", package], check=True, capture_output=True, text=True)
    assert f"version: {VERSION}\n" in shown.stdout
