"""The DAG library under test, with the platform file that the chart renders for kind."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

# Airflow reads its settings when it is imported: before any test module.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="trainyard-airflow-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
PLATFORM_FILE = Path(__file__).parent / "platform.json"
os.environ["TRAINYARD_PLATFORM"] = str(PLATFORM_FILE)
DAGS = Path(__file__).parents[2] / "dags"


def _install(directory: Path) -> None:
    """Make the sources an installed distribution: Airflow finds its entry points, in subprocesses as well."""
    project = tomllib.loads((DAGS / "pyproject.toml").read_text())["project"]
    info = directory / f"trainyard-{project['version']}.dist-info"
    info.mkdir(parents=True)
    name_and_version = f"Name: trainyard\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\n{name_and_version}")
    lines: list[str] = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    sys.path.append(str(directory))
    inherited = [path for path in [os.environ.get("PYTHONPATH")] if path]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(DAGS), str(directory), *inherited])


_install(Path(os.environ["AIRFLOW_HOME"]) / "distribution")

from trainyard.naming import TaskIdentity  # noqa: E402
from trainyard.platform import Platform, load_platform  # noqa: E402
from trainyard.training.pod import TrainingRequest  # noqa: E402


@pytest.fixture
def platform() -> Platform:
    return load_platform()


@pytest.fixture
def identity() -> TaskIdentity:
    return TaskIdentity("digits_training", "manual__2026-11-21T07:00:00.123456+00:00", "train", -1, 1)


@pytest.fixture
def request_for_train() -> TrainingRequest:
    return TrainingRequest(
        step="train",
        dataset="file:///data/processed/digits/date=2026-11-21/version=0123456789ab",
        output_uri="file:///checkpoints/k/model",
        deadline_seconds=7200,
        step_params={"model": "digits", "epochs": 3},
        gpu_pool="ondemand",
    )


@pytest.fixture
def receive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Names a receiver of lineage events in the platform file."""

    def _receive(url: str) -> None:
        platform = {**json.loads(PLATFORM_FILE.read_text()), "openlineage": {"url": url, "namespace": "ty"}}
        (tmp_path / "platform.json").write_text(json.dumps(platform))
        monkeypatch.setenv("TRAINYARD_PLATFORM", str(tmp_path / "platform.json"))

    return _receive
