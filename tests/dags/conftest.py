"""The DAG library under test, with the platform file that the chart renders for kind."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Airflow reads its settings when it is imported: before any test module.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="trainyard-airflow-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
PLATFORM_FILE = Path(__file__).parent / "platform.json"
os.environ["TRAINYARD_PLATFORM"] = str(PLATFORM_FILE)
LIBRARY = Path(__file__).parents[2] / "library"


def _install(directory: Path) -> None:
    """Make the sources an installed distribution: Airflow finds its entry points, in subprocesses as well."""
    project = tomllib.loads((LIBRARY / "pyproject.toml").read_text())["project"]
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
    os.environ["PYTHONPATH"] = os.pathsep.join([str(LIBRARY), str(directory), *inherited])


_install(Path(os.environ["AIRFLOW_HOME"]) / "distribution")

from airflow.models import import_all_models  # noqa: E402
from airflow.models.dagrun import DagRun  # noqa: E402
from mlflow_server import serving  # noqa: E402
from sqlalchemy import create_engine, event  # noqa: E402
from sqlalchemy.orm import Session  # noqa: E402
from trainyard.alerts import receivers  # noqa: E402
from trainyard.naming import TaskIdentity  # noqa: E402
from trainyard.platform import Platform, load_platform  # noqa: E402
from trainyard.training.pod import TrainingRequest  # noqa: E402


@pytest.fixture
def platform() -> Platform:
    return load_platform()


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server, which the tests share: each uses names of its own."""
    with serving(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    # The tests share the server and have a model each.
    return re.sub(r"[^A-Za-z0-9._-]+", "-", request.node.name)


@pytest.fixture
def client(mlflow_uri: str) -> Any:
    """MLflow's own client, as a witness."""
    import mlflow

    return mlflow.MlflowClient(mlflow_uri, mlflow_uri)


@pytest.fixture
def on_mlflow(mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes that server the platform's; its address."""
    platform = json.loads(PLATFORM_FILE.read_text())
    platform["training"]["trackingUri"] = mlflow_uri
    (tmp_path / "platform.json").write_text(json.dumps(platform))
    monkeypatch.setenv("TRAINYARD_PLATFORM", str(tmp_path / "platform.json"))
    return mlflow_uri


@pytest.fixture
def identity() -> TaskIdentity:
    run_id, uid = "manual__2026-11-21T07:00:00.123456+00:00", "0198f5c6-1d2e-7a3b-8c4d-5e6f708192a3"
    return TaskIdentity("digits_training", run_id, "train", -1, 1, uid=uid)


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


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory where the Secret is mounted; empty without one."""
    monkeypatch.setattr(receivers, "DIRECTORY", tmp_path / "alerts")
    monkeypatch.setattr(receivers, "PAUSES", (0.01, 0.01))
    (tmp_path / "alerts").mkdir()
    return tmp_path / "alerts"


@pytest.fixture
def session() -> Iterator[Session]:
    """A session on a SQLite database with Airflow's tables."""
    import_all_models()
    engine = create_engine("sqlite://")
    DagRun.metadata.create_all(engine)

    # The driver begins no transaction before a savepoint on its own.
    @event.listens_for(engine, "connect")
    def _(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    with Session(engine) as session:
        yield session
