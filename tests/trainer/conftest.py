"""The trainer as the platform runs it, with an MLflow store and a lake on disk.

A step that is to be interrupted is a process of its own. Others run in the tests' process: importing torch
and MLflow takes seconds, which would be most of a test. The tests run in the trainer's image, and wherever
torch, scikit-learn and mlflow-skinny are installed.
"""

import importlib.util
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

if importlib.util.find_spec("trainyard_trainer") is None:  # outside the image
    sys.path.insert(0, str(Path(__file__).parents[2] / "images/trainer/src"))

# mlflow-skinny has no database backend; its files hold the same entities.
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"


@dataclass
class Ended:
    """How a step ended."""

    code: int
    result: dict[str, Any]
    events: list[dict[str, Any]]
    text: str

    def event(self, name: str) -> dict[str, Any]:
        return next(event for event in self.events if event["event"] == name)


class Steps:
    """Runs the steps of one run key."""

    def __init__(self, directory: Path, lake: Path, run_key: str) -> None:
        self.lake = lake
        self.run_key = run_key
        self.output = directory / "output"
        self.checkpoints = directory / "checkpoints"
        self.return_file = directory / "return.json"
        self.tracking_uri = (directory / "mlruns").as_uri()
        self.environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "CHECKPOINT_DIR": str(self.checkpoints),
            "CHECKPOINT_FREQ": "2",
            "TRAINYARD_RETURN": str(self.return_file),
        }

    def start(self, step: str, dataset: str, *flags: str, params: Any = None, **environment: str):
        return subprocess.Popen(
            [sys.executable, "-m", "trainyard_trainer", *self._arguments(step, dataset, flags, params)],
            env=os.environ | self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, process, lines: list[str] | None = None) -> Ended:
        text = "".join(lines or []) + process.communicate(timeout=120)[0]
        return self._ended(process.returncode, text)

    def run(self, step: str, dataset: str, *flags: str, params: Any = None, **environment: str) -> Ended:
        from trainyard_trainer.cli import main

        arguments = self._arguments(step, dataset, flags, params)
        with as_a_process({**self.environment, **environment}) as output:
            code = main(arguments)
        return self._ended(code, output.getvalue())

    def _arguments(self, step: str, dataset: str, flags: tuple[str, ...], params: Any) -> list[str]:
        self.return_file.unlink(missing_ok=True)
        output = self.lake if step in ("validate", "preprocess", "features") else self.output
        named = ["--run-key", self.run_key, "--dataset", dataset, "--output", output.as_uri()]
        return [step, *named, "--params", json.dumps(params or {}), *flags]

    def _ended(self, code: int, text: str) -> Ended:
        result = json.loads(self.return_file.read_text()) if self.return_file.exists() else {}
        return Ended(code, result, [json.loads(line) for line in text.splitlines()], text)

    def runs(self) -> list[Any]:
        """The MLflow runs of the run key."""
        client = self.client()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`trainyard.run_key` = '{self.run_key}'")
        return list(found)

    def steps_of(self, metric: str) -> list[int]:
        """The steps that were logged for a metric, in order of logging."""
        (run,) = self.runs()
        return [entry.step for entry in self.client().get_metric_history(run.info.run_id, metric)]

    def models(self) -> list[Any]:
        client = self.client()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_logged_models(experiments))

    def client(self):
        from mlflow import MlflowClient

        return MlflowClient(self.tracking_uri)


@contextmanager
def as_a_process(environment: dict[str, str]) -> Iterator[io.StringIO]:
    """Give the block what a process has for itself, and yield its standard output."""
    package = logging.getLogger("trainyard")
    root, level = logging.getLogger(), package.level
    handlers = root.handlers[:]
    try:
        with mock.patch.dict(os.environ, environment), redirect_stdout(io.StringIO()) as output:
            yield output
    finally:
        root.handlers[:] = handlers
        package.setLevel(level)
        logging.captureWarnings(False)


@pytest.fixture(autouse=True)
def own_sigterm() -> Iterator[None]:
    """The trainer ends by ignoring SIGTERM, which later tests and their child processes must not inherit."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path, tmp_path / "lake", "digits_training__manual-1")


@pytest.fixture(scope="session")
def processed(tmp_path_factory) -> str:
    """The URI of the digits, ready for training."""
    directory = tmp_path_factory.mktemp("data")
    steps = Steps(directory, directory / "lake", "data")
    raw = steps.run("validate", "sklearn://digits").result["dataset"]
    return str(steps.run("preprocess", raw).result["dataset"])
