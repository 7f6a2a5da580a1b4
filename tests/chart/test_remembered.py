"""A render that is remembered is that of the same helm, charts, values files and words."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import remembered
import render
from trainyard_cli import paths


class Helm:
    """Counts how often it is run."""

    def __init__(self, root: Path) -> None:
        self.program = root / "helm"
        self.runs = 0

    def said(self, *words: str) -> str:
        for cached in (remembered._of_program, remembered._of_files):
            cached.cache_clear()  # as in another process
        return remembered.of_helm([str(self.program), *words], self._run)

    def _run(self) -> str:
        self.runs += 1
        return f"run {self.runs}"


@pytest.fixture
def helm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helm:
    for directory in ("charts/a", "values"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "charts/a/Chart.yaml").write_text("name: a\n")
    (tmp_path / "values/kind.yaml").write_text("a: 1\n")
    (tmp_path / "helm").write_text("helm 1")
    (tmp_path / "helm").chmod(0o755)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(remembered, "RENDERS", tmp_path / "renders")
    return Helm(tmp_path)


def test_the_same_command_is_run_once(helm: Helm) -> None:
    assert [helm.said("template"), helm.said("template")] == ["run 1"] * 2


@pytest.mark.parametrize("changed", ["helm", "values/kind.yaml", "charts/a/Chart.yaml", "charts/a/more.yaml"])
def test_what_it_reads_has_changed(helm: Helm, tmp_path: Path, changed: str) -> None:
    helm.said("template")
    with (tmp_path / changed).open("a") as file:
        file.write("b: 2\n")
    (tmp_path / changed).chmod(0o755)
    assert helm.said("template") == "run 2"


def test_an_error_is_not_remembered(helm: Helm) -> None:
    def fails() -> str:
        raise ValueError("not an object of Kubernetes")

    for _ in range(2):
        with pytest.raises(ValueError, match="not an object"):
            remembered.remembered(["a"], fails)
    assert remembered.remembered(["a"], lambda: [1]) == [1]


def test_a_helm_that_is_killed_has_said_nothing(tmp_path: Path) -> None:
    program = tmp_path / "helm"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    with pytest.raises(subprocess.CalledProcessError):
        render._run([str(program)], "{}")


def test_a_link_leads_elsewhere(helm: Helm, tmp_path: Path) -> None:
    link = tmp_path / "charts/common"
    link.symlink_to("a")
    helm.said("template")
    link.unlink()
    link.symlink_to("b")
    assert helm.said("template") == "run 2"


def test_other_words_are_another_command(helm: Helm) -> None:
    assert helm.said("template", "a") != helm.said("template", "b")


def test_a_damaged_file_is_written_again(helm: Helm) -> None:
    helm.said("template")
    (file,) = remembered.RENDERS.iterdir()
    file.write_bytes(file.read_bytes()[:5])
    assert [helm.said("template"), helm.said("template")] == ["run 2"] * 2


def test_what_was_not_used_for_long_is_forgotten(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    helm.said("template")
    remembered.forget_old()
    assert len(list(remembered.RENDERS.iterdir())) == 1
    later = time.time() + remembered.KEPT_SECONDS + 1
    monkeypatch.setattr(remembered.time, "time", lambda: later)
    remembered.forget_old()
    assert list(remembered.RENDERS.iterdir()) == []
