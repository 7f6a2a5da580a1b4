"""A model in service: it answers under its name, and a broken version never takes its place."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from kubernetes import client

DAG = "deploy_model"
EXAMPLE = {"inputs": [[[[0.5] * 8] * 8]]}


class Service:
    """A model's Service, reached through the API server."""

    def __init__(self, core: client.CoreV1Api, namespace: str, name: str) -> None:
        self._api = core.api_client
        self._path = f"/api/v1/namespaces/{namespace}/services/{name}:http/proxy"

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[Any, str]:
        """The answer, and the version that gave it. Raises ApiException."""
        response = self._api.call_api(
            f"{self._path}{path}",
            "POST" if body else "GET",
            header_params={"Content-Type": "application/json", "Accept": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=20,
        )
        return json.loads(response.data), response.headers["trainyard-model-version"]


@contextmanager
def asked_all_the_time(service: Service) -> Iterator[tuple[list[str], list[str]]]:
    """Ask for predictions meanwhile; collects the versions that answered, and the errors."""
    versions: list[str] = []
    errors: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                versions.append(service.ask("/invocations", EXAMPLE)[1])
            except Exception as error:  # of any kind: the thread must not end unnoticed
                errors.append(f"{type(error).__name__}: {error}")
            time.sleep(0.2)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield versions, errors
        assert thread.is_alive(), "the questions ended before the test did"
    finally:
        stop.set()
        thread.join(timeout=30)


@pytest.fixture(scope="module")
def served(trigger, finish, first_run, versions, model_name: str) -> str:
    """The version of the session's model, deployed by hand; the model itself serves afterwards."""
    (version,) = versions(first_run.run_id)
    run_id = trigger("serve", dag=DAG, model=model_name, version=version.version)
    assert finish(run_id, dag=DAG).state == "success"
    return version.version


@pytest.fixture(scope="module")
def service(core: client.CoreV1Api, platform, served: str, model_name: str) -> Iterator[Service]:
    namespace = platform["serving"]["namespace"]
    yield Service(core, namespace, model_name)
    client.AppsV1Api().delete_namespaced_deployment(model_name, namespace)
    core.delete_namespaced_service(model_name, namespace)
    client.PolicyV1Api().delete_namespaced_pod_disruption_budget(model_name, namespace)


@pytest.fixture(scope="module")
def broken(mlflow, model_name: str, served: str) -> Iterator[str]:
    """A registered version whose artifact is not a model."""
    api = Mlflow(mlflow)
    known = api.call("GET", "model-versions/get", name=model_name, version=served)["model_version"]
    experiment = api.call("GET", "runs/get", run_id=known["run_id"])["run"]["info"]["experiment_id"]
    logged = api.call(
        "POST", "logged-models", experiment_id=experiment, name="broken", source_run_id=known["run_id"]
    )["model"]["info"]
    path = logged["artifact_uri"].removeprefix("mlflow-artifacts:").lstrip("/")
    api.upload(f"{path}/MLmodel", b"flavors: {python_function: {loader_module: mlflow.pytorch, data: data}}")
    created = api.call(
        "POST",
        "model-versions/create",
        name=model_name,
        source=logged["artifact_uri"],
        model_id=logged["model_id"],
        run_id=known["run_id"],
    )["model_version"]
    yield created["version"]
    api.call("DELETE", "model-versions/delete", name=model_name, version=created["version"])


class Mlflow:
    """What this test writes into MLflow."""

    def __init__(self, mlflow: Any) -> None:
        self._http = httpx.Client(base_url=mlflow.base_url, auth=mlflow.auth, timeout=30, trust_env=False)

    def call(self, method: str, path: str, **fields: str) -> dict[str, Any]:
        sent = {"params": fields} if method == "GET" else {"json": fields}
        response = self._http.request(method, f"/api/2.0/mlflow/{path}", **sent)
        response.raise_for_status()
        return response.json()

    def upload(self, path: str, content: bytes) -> None:
        self._http.put(f"/api/2.0/mlflow-artifacts/artifacts/{path}", content=content).raise_for_status()


def test_a_deployed_model_answers_under_its_name(service: Service, served: str, model_name: str) -> None:
    answer, version = service.ask("/invocations", EXAMPLE)
    assert len(answer["predictions"][0]) == 10 and version == served
    told, _ = service.ask("/version")
    assert (told["model"], told["version"]) == (model_name, served)
    assert service.ask("/ready")[0] == {"ready": True}


def test_its_disruption_budget_covers_its_pods(
    service: Service, platform, served: str, model_name: str
) -> None:
    serving = platform["serving"]
    budget = client.PolicyV1Api().read_namespaced_pod_disruption_budget(model_name, serving["namespace"])
    assert budget.spec.max_unavailable == serving["podDisruptionBudget"]["maxUnavailable"]
    assert budget.status.expected_pods == serving["replicas"]


def test_a_broken_version_is_rolled_back_and_no_request_fails(
    trigger: Callable[..., str], finish, airflow, service: Service, served: str, broken: str, model_name: str
) -> None:
    with asked_all_the_time(service) as (answered, errors):
        run = finish(trigger("broken", dag=DAG, model=model_name, version=broken), dag=DAG)
    assert run.state == "failed"
    assert run.tasks["deploy"]["try_number"] == 1, "no other try can mend a broken artifact"
    failure = airflow.xcom(DAG, run.run_id, "deploy", "failure")
    assert failure["cause"] == "bad_data", failure
    assert f"version {served} goes on serving" in failure["message"]
    assert failure["log"], "the server's last lines"
    assert errors == [] and set(answered) == {served}, json.dumps(errors)[:500]
    assert len(answered) > 10


def test_the_same_version_again_is_a_quick_success(
    trigger, finish, service: Service, served: str, model_name: str
) -> None:
    with asked_all_the_time(service) as (answered, errors):
        run = finish(trigger("again", dag=DAG, model=model_name, version="champion"), dag=DAG)
    assert run.state == "success"
    assert errors == [] and set(answered) == {served}
