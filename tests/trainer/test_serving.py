"""The model server as a pod runs it: a process which serves one registered version."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
import torch
import uvicorn
import yaml
from conftest import free_port
from mlflow import MlflowClient
from processes import ForkedProcess
from trainyard_contract import VERSION_HEADER, Env, ExitCode, ServingEnv, ServingPath
from trainyard_serving import app, model
from trainyard_serving.settings import Settings
from trainyard_trainer import artifact
from trainyard_trainer.errors import BadConfig, BadData

MODEL = "greater"
ROWS = [[1.0, 2.0], [4.0, 3.0]]
PREDICTIONS = [[0.0, 1.0], [1.0, 0.0]]
FILES = {
    "example": artifact.INPUT_EXAMPLE,
    "expected": artifact.OUTPUT_EXAMPLE,
    "weights": "data/model.pth",
    "mlmodel": "MLmodel",
}


def network() -> torch.nn.Module:
    """Takes float32 rows of two values and nothing else, and is sure of the greater one's class."""
    layer = torch.nn.Linear(2, 2, bias=False)
    layer.weight.data = 1000 * torch.eye(2)  # so sure that softmax leaves 0 and 1
    return layer


class Registry:
    """Registers artifacts as versions of one model."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        MlflowClient(self.uri).create_registered_model(MODEL)

    @property
    def uri(self) -> str:
        return (self.directory / "mlruns").as_uri()

    def register(self, *, without_example: bool = False, **files: str) -> str:
        """Register a good model, with the content of some of its `files` replaced; return its version."""
        client = MlflowClient(self.uri)
        count = len(client.search_model_versions(f"name = '{MODEL}'"))
        source = self.directory / f"artifact-{count + 1}"
        artifact.save(network(), source, example=torch.tensor(ROWS), metrics={}, config={})
        for name, content in files.items():
            (source / FILES[name]).write_text(content)
        if without_example:
            (source / FILES["example"]).unlink()
        return str(client.create_model_version(MODEL, source=str(source)).version)


@dataclass
class Server:
    """A running server."""

    process: ForkedProcess | None
    url: str
    version: str

    def request(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
        """Status, content and headers of the response."""
        headers = {"Content-Type": "application/json", **headers}
        try:
            with urlopen(Request(self.url + path, data=body, headers=headers), timeout=20) as response:
                content = json.loads(response.read().strip() or b"null")
                return response.status, content, response.headers
        except HTTPError as error:
            return error.code, json.loads(error.read()), error.headers

    def predict(self, **request: Any) -> tuple[int, Any, Any]:
        return self.request(ServingPath.INVOCATIONS, json.dumps(request).encode())


def start(registry: Registry, version: str, port: int) -> ForkedProcess:
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        Env.TRACKING_URI: registry.uri,
        ServingEnv.MODEL: MODEL,
        ServingEnv.MODEL_VERSION: version,
        ServingEnv.PORT: str(port),
        "OMP_NUM_THREADS": "1",
    }
    return ForkedProcess("trainyard_serving.server", [], os.environ | environment)


@contextmanager
def running(registry: Registry) -> Iterator[Server]:
    """A ready server of a version of its own; it is killed at the end if it still runs."""
    version = registry.register()
    port = free_port()
    process = start(registry, version, port)
    server = Server(process, f"http://127.0.0.1:{port}", version)
    deadline = time.monotonic() + 120
    try:
        while True:
            try:
                server.request(ServingPath.READY)
                break
            except (URLError, ConnectionError):
                assert process.is_alive() and time.monotonic() < deadline, process.end(timeout=0)
                time.sleep(0.1)
        yield server
    finally:
        process.kill()


def events(text: str) -> dict[str, dict[str, Any]]:
    """The events of a log by their names; every line must be JSON."""
    return {event["event"]: event for event in map(json.loads, text.splitlines())}


def load(registry: Registry, version: str) -> model.Model:
    return model.load(Settings(registry.uri, MODEL, version, 8080))


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Registry:
    return Registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def server(registry: Registry) -> Iterator[Server]:
    """One server for all tests that leave it running."""
    with running(registry) as server:
        yield server


def test_it_says_what_it_serves(server: Server) -> None:
    assert server.request(ServingPath.READY)[:2] == (200, {"ready": True})
    assert server.request(ServingPath.PING)[0] == 200
    served = server.request(ServingPath.VERSION)[1]
    assert (served["model"], served["version"]) == (MODEL, server.version)
    assert server.request(ServingPath.EXAMPLE)[1] == {"inputs": ROWS}


@pytest.mark.parametrize(
    "request_body",
    [{"inputs": ROWS}, {"instances": ROWS}, {"dataframe_split": {"columns": ["a", "b"], "data": ROWS}}],
    ids=lambda body: next(iter(body)),
)
def test_it_predicts_by_mlflows_protocol_and_names_the_version(server: Server, request_body: dict) -> None:
    status, answer, headers = server.predict(**request_body)
    assert status == 200, answer
    rows = [list(row.values()) if isinstance(row, dict) else row for row in answer["predictions"]]
    assert rows == PREDICTIONS
    assert headers[VERSION_HEADER] == server.version


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{", 400, "JSON"),
        (b"[1]", 422, "dictionary"),
        (b'{"rows": []}', 422, "inputs"),
        (b'{"inputs": [[1.0]]}', 422, "shape (-1, 2)"),
        (b'{"inputs": ["a"]}', 422, "to float: 'a'"),
        (b'{"dataframe_split": {"columns": ["a"], "data": [[1]]}}', 422, "shape"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong_and_the_server_goes_on(
    server: Server, body: bytes, status: int, told: str
) -> None:
    found, answer, _ = server.request(ServingPath.INVOCATIONS, body)
    assert (found, set(answer)) == (status, {"error"})
    assert told in answer["error"]
    assert "Traceback" not in answer["error"] and "site-packages" not in answer["error"]
    assert server.predict(inputs=ROWS)[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"a,b\n1,2\n4,3\n", 200, ""),
        (b"a,b,c\n1,2,3\n", 422, "shape (-1, 2)"),
        (b"a,b\n1,x\n", 422, "'x'"),
        (b"", 422, "no CSV with a header"),
    ],
)
def test_a_csv_is_rows_of_the_tensor(server: Server, body: bytes, status: int, told: str) -> None:
    found, answer, _ = server.request(ServingPath.INVOCATIONS, body, **{"Content-Type": "text/csv"})
    assert found == status, answer
    assert told in answer["error"] if told else answer == {"predictions": PREDICTIONS}


class Failing(torch.nn.Module):
    """A network with an error of its own, which its signature does not tell of."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if bool((rows > 9).any()):
            raise RuntimeError("secret")
        return rows


def test_what_a_model_fails_with_is_in_the_log_alone(registry: Registry) -> None:
    directory = registry.directory / "failing"
    artifact.save(Failing(), directory, example=torch.tensor(ROWS), metrics={}, config={})
    client = MlflowClient(registry.uri)
    version = str(client.create_model_version(MODEL, source=str(directory)).version)
    with in_thread(app.create(load(registry, version))) as server:
        status, answer, _ = server.predict(inputs=[[1.0, 10.0]])
        assert server.predict(inputs=ROWS)[0] == 200
    assert status == 500
    assert answer == {"error": "the model failed; the cause is in the server's log"}


def test_every_error_is_json() -> None:
    predicts_no_json = Slow()
    predicts_no_json.predict = lambda data: object()
    with in_thread(app.create(model.Model(MODEL, "1", predicts_no_json, None))) as broken:
        status, answer, _ = broken.predict(inputs=ROWS)
    assert (status, set(answer)) == (500, {"error"})


def test_another_type_of_content_is_refused(server: Server) -> None:
    status, answer, _ = server.request(ServingPath.INVOCATIONS, b"1", **{"Content-Type": "text/plain"})
    assert status == 415 and "content types" in answer["error"]


class Slow:
    """A model that answers when it is told to."""

    def __init__(self) -> None:
        self.metadata = SimpleNamespace(get_input_schema=lambda: None, get_params_schema=lambda: None)
        self.go_on = threading.Event()

    def predict(self, data: Any) -> Any:
        self.go_on.wait(timeout=60)
        return data


@contextmanager
def in_thread(application: app.App) -> Iterator[Server]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(application, port=port, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Server(None, f"http://127.0.0.1:{port}", "1")
    finally:
        server.should_exit = True
        thread.join(timeout=60)


def test_a_busy_server_says_when_to_come_again() -> None:
    slow = Slow()
    busy = app.create(model.Model(MODEL, "1", slow, None))
    with in_thread(busy) as server, ThreadPoolExecutor(app.AT_ONCE + 1) as clients:
        waiting = [clients.submit(server.predict, inputs=ROWS) for _ in range(app.AT_ONCE + 1)]
        refused = next(as_completed(waiting)).result()
        ready = server.request(ServingPath.READY)[0]
        slow.go_on.set()
        codes = [each.result()[0] for each in waiting]
        codes.append(server.predict(inputs=ROWS)[0])
    assert (refused[0], refused[2]["Retry-After"], ready) == (503, "1", 200)
    assert "more replicas" in refused[1]["error"]
    assert sorted(codes) == [200] * (app.AT_ONCE + 1) + [503]


def test_a_request_that_takes_too_long_is_answered_and_counts_until_it_ends(monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(app, "AT_ONCE", 1)
    slow = Slow()
    with in_thread(app.create(model.Model(MODEL, "1", slow, None))) as server:
        status, answer, _ = server.predict(inputs=ROWS)
        meanwhile = server.predict(inputs=ROWS)[0]
        slow.go_on.set()
        until = time.monotonic() + 30
        while (later := server.predict(inputs=ROWS)[0]) == 503 and time.monotonic() < until:
            time.sleep(0.02)
    assert (status, meanwhile, later) == (504, 503, 200)
    assert "within 1 s; send fewer rows" in answer["error"]


def test_a_body_must_say_its_size_and_not_be_too_large(server: Server) -> None:
    status, answer, _ = server.request(ServingPath.INVOCATIONS, b"{}", **{"Content-Length": str(2**30)})
    assert status == 413 and "at most" in answer["error"]


def test_sigterm_ends_it_in_good_order(registry: Registry) -> None:
    with running(registry) as server:
        assert server.predict(inputs=ROWS)[0] == 200
        server.process.send_signal(signal.SIGTERM)
        logged = events(server.process.end(timeout=60))
    assert {"model_loaded", "serving", "request"} <= logged.keys()
    assert logged["model_loaded"]["smoke"] is True


def test_a_model_with_other_predictions_than_after_training_is_not_served(registry: Registry) -> None:
    version = registry.register(expected='{"predictions": [[1, 0], [1, 0]]}')
    with pytest.raises(BadData, match=r"predicts \[\[0\.0, 1\.0\].*expected \[\[1, 0\]"):
        load(registry, version)


def test_a_model_that_cannot_predict_its_example_is_not_served(registry: Registry) -> None:
    with pytest.raises(BadData, match="cannot predict its own example"):
        load(registry, registry.register(example='{"inputs": [[1.0]]}'))


def test_a_model_without_a_signature_is_served(registry: Registry) -> None:
    """As the trainer wrote them once, and as who logs a model without one."""
    directory = registry.directory / f"artifact-{registry.register()}"
    mlmodel = yaml.safe_load((directory / "MLmodel").read_text())
    assert mlmodel.pop("signature")
    loaded = load(registry, registry.register(mlmodel=yaml.safe_dump(mlmodel)))
    assert loaded.pyfunc.metadata.signature is None
    assert model.predict(loaded.pyfunc, {"inputs": ROWS}) == PREDICTIONS


def test_a_model_without_an_example_is_served(registry: Registry) -> None:
    assert load(registry, registry.register(without_example=True)).example is None


def test_a_damaged_artifact_is_not_served(registry: Registry) -> None:
    with pytest.raises(BadData, match="cannot be loaded"):
        load(registry, registry.register(weights="not a network"))


def test_a_version_that_does_not_exist_is_not_served(registry: Registry) -> None:
    with pytest.raises(BadConfig, match=f"models:/{MODEL}/99"):
        load(registry, "99")


def test_a_wrong_environment_is_the_last_line_of_the_log_and_the_exit_code(registry: Registry) -> None:
    process = start(registry, "champion", 8080)
    text = process.end(timeout=60)
    assert process.returncode == ExitCode.BAD_CONFIG
    assert "pin a version number" in events(text)["failed"]["error"]
