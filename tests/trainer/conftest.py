"""The trainer as the platform runs it: a process of its own, with an MLflow store and a lake on disk.

Runs in the trainer's image, and wherever torch, scikit-learn and mlflow-skinny are installed.
"""

import importlib.util
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("trainyard_trainer") is None:  # outside the image
    for folder in ("images/trainer/src", "library"):
        sys.path.insert(0, str(Path(__file__).parents[2] / folder))

# mlflow-skinny has no database backend; its files hold the same entities.
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"

from processes import ForkedProcess  # isort: skip  before MLflow, whose environment it sets

import mlflow
import numpy as np
import torch
from trainyard_contract import Env, Tag
from trainyard_trainer import storage
from trainyard_trainer.models.base import BaseModel
from trainyard_trainer.params import COMMON, complete

PARAMS = {"epochs": 8, "batch_size": 64}  # of a training that is compared with others


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
        self.object_uri = ""  # where lake, output and checkpoints are then
        self.return_file = directory / "return.json"
        self.tracking_uri = (directory / "mlruns").as_uri()
        self.environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            Env.TRACKING_URI: self.tracking_uri,
            Env.CHECKPOINT_DIR: str(self.checkpoints),
            Env.CHECKPOINT_FREQ: "2",
            Env.RETURN_FILE: str(self.return_file),
        }

    def start(
        self, step: str, dataset: str, *flags: str, params: Any = None, **environment: str
    ) -> ForkedProcess:
        self.return_file.unlink(missing_ok=True)
        output = self.lake if step in ("validate", "preprocess", "features") else self.output
        uri = f"{self.object_uri}/{output.name}" if self.object_uri else output.as_uri()
        if self.object_uri:
            environment |= {Env.CHECKPOINT_DIR: f"{self.object_uri}/checkpoints/{self.run_key}"}
        arguments = ["--run-key", self.run_key, "--dataset", dataset, "--output", uri]
        arguments += ["--params", json.dumps(params or {}), *flags]
        environment = os.environ | self.environment | environment
        return ForkedProcess("trainyard_trainer.cli", [[step, *arguments]], environment)

    def end(self, process: ForkedProcess, lines: list[str] | None = None) -> Ended:
        text = "".join(lines or []) + process.end(timeout=120)
        result = json.loads(self.return_file.read_text()) if self.return_file.exists() else {}
        return Ended(process.returncode, result, [json.loads(line) for line in text.splitlines()], text)

    def run(self, step: str, dataset: str, *flags: str, params: Any = None, **environment: str) -> Ended:
        return self.end(self.start(step, dataset, *flags, params=params, **environment))

    def runs(self) -> list[Any]:
        """The MLflow runs of the run key."""
        client = self.client()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        filter_string = f"tags.`{Tag.RUN_KEY}` = '{self.run_key}'"
        until = time.monotonic() + 1
        while True:
            try:
                return list(client.search_runs(experiments, filter_string))
            except ValueError:  # the file of a metric that is being logged has no line yet
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)

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


@pytest.fixture(autouse=True)
def unchanged_process() -> Iterator[None]:
    """Restores what the trainer sets for its whole process, so that no test depends on the one before.

    The trainer replaces the log handlers, and ignores SIGTERM at its end, which forked processes inherit. The
    model server sets MLflow's tracking URI, which sets the environment variable as well.
    """
    handler = signal.getsignal(signal.SIGTERM)
    root, own = logging.getLogger(), logging.getLogger("trainyard")
    handlers, levels = root.handlers[:], (root.level, own.level)
    random_state = torch.get_rng_state()
    yield
    mlflow.set_tracking_uri(None)
    torch.set_rng_state(random_state)
    torch.use_deterministic_algorithms(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])
    logging.captureWarnings(False)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path, tmp_path / "lake", "digits_training__manual-1")


@pytest.fixture(scope="session")
def object_store(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The platform's object store with an empty bucket `training`: the variables by which it is reached."""
    directory = tmp_path_factory.mktemp("object-store")
    (directory / "training").mkdir()
    address = f"127.0.0.1:{free_port()}"
    keys = {"AWS_ACCESS_KEY_ID": "training", "AWS_SECRET_ACCESS_KEY": "secret"}
    root = {f"ROOT_{name.removeprefix('AWS_')}": value for name, value in keys.items()}
    # Headers of objects in files: a temporary directory may have no extended attributes.
    headers = tmp_path_factory.mktemp("headers")
    command = ["versitygw", f"--port={address}", "--quiet", "posix", f"--sidecar={headers}", str(directory)]
    with subprocess.Popen(command, env=os.environ | root) as server:
        yield {**keys, "AWS_ENDPOINT_URL": f"http://{address}", "AWS_REGION": "us-east-1"}
        server.terminate()


@pytest.fixture
def bucket_uri(object_store: dict[str, str], monkeypatch, request) -> str:
    """A prefix of its own in the object store, which this process and its children reach."""
    for name, value in object_store.items():
        monkeypatch.setenv(name, value)
    storage._store.cache_clear()
    return f"s3://training/{re.sub('[^a-z0-9]+', '-', request.node.name)}"


@pytest.fixture(params=["volume", "object store"])
def root(request, tmp_path: Path) -> storage.Directory:
    """A directory where nothing is yet, in each kind of place."""
    if request.param == "volume":
        return storage.LocalDirectory(tmp_path / "root")
    return storage.directory(request.getfixturevalue("bucket_uri"))


@pytest.fixture(scope="session")
def processed(tmp_path_factory) -> str:
    """The URI of a third of the digits, ready for training; no test may change the dataset."""
    from sklearn.datasets import load_digits

    directory = tmp_path_factory.mktemp("data")
    digits = load_digits()
    np.savez(directory / "digits.npz", images=digits.images[:600], labels=digits.target[:600])
    steps = Steps(directory, directory / "lake", "data")
    raw = steps.run("validate", (directory / "digits.npz").as_uri()).result["dataset"]
    return str(steps.run("preprocess", raw).result["dataset"])


@pytest.fixture(scope="session")
def undisturbed(processed: str, tmp_path_factory) -> Ended:
    return train(tmp_path_factory.mktemp("undisturbed"), processed, PARAMS)


def train(directory: Path, dataset: str, params: dict[str, Any]) -> Ended:
    """A training that nothing disturbs, with a lake of its own."""
    ended = Steps(directory, directory / "lake", "undisturbed").run("train", dataset, params=params)
    assert ended.code == 0, ended.text
    return ended


def completed(model: BaseModel, given: dict[str, Any]) -> dict[str, Any]:
    """All parameters of the model's steps, of which some are given."""
    return complete(given, {**COMMON, **model.params})


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
