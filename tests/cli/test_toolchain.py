"""What tools are built from."""

from __future__ import annotations

from pathlib import Path

import pytest
from trainyard_cli import toolchain


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(toolchain, "GO_CACHE", tmp_path / "go")
    monkeypatch.setattr(toolchain, "GO_LOCK", tmp_path / "go.lock")
    (tmp_path / "go" / "mod").mkdir(parents=True)
    return tmp_path / "go"


def test_the_sources_go_when_nothing_is_built(cache: Path) -> None:
    toolchain.forget_sources()
    assert not cache.exists()


def test_another_command_that_builds_keeps_its_sources(cache: Path) -> None:
    with toolchain._sources_kept():
        toolchain.forget_sources()
        assert (cache / "mod").is_dir()
    toolchain.forget_sources()
    assert not cache.exists()
