"""MLflow's login on the cluster: what training pods may do, with the very account that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from conftest import MLFLOW_PRELUDE, NAMESPACE, Run
from kubernetes import client
from pods import component_of, output_of, scratch, scratch_pod, wait_until
from trainyard_cli.mlflow_api import Mlflow, ModelVersion

POD = "login"
# Calls of the training pod, by MLflow's own client and by HTTP; prints the result of each.
CALLS = (
    MLFLOW_PRELUDE
    + """
model, version, run_id = sys.argv[1:]
calls = {
    "read the champion": lambda: mlflow_client.get_model_version_by_alias(model, "champion"),
    "read what is not there": lambda: mlflow_client.get_registered_model(model + "-mine"),
    "tag the run": lambda: mlflow_client.set_tag(run_id, "e2e", "login"),
    "move champion": lambda: mlflow_client.set_registered_model_alias(model, "champion", version),
    "delete champion": lambda: mlflow_client.delete_registered_model_alias(model, "champion"),
    "tag the version": lambda: mlflow_client.set_model_version_tag(model, version, "a", "b"),
    "delete the version": lambda: mlflow_client.delete_model_version(model, version),
    "delete the model": lambda: mlflow_client.delete_registered_model(model),
    "make a model": lambda: mlflow_client.create_registered_model(model + "-mine"),
    "make a version": lambda: mlflow_client.create_model_version(model, "runs:/" + run_id + "/model", run_id),
    "delete the run": lambda: mlflow_client.delete_run(run_id),
}

print(json.dumps({name: result(call) for name, call in calls.items()}))
"""
)
ALLOWED = {"read the champion": 200, "read what is not there": 404, "tag the run": 200}


@pytest.fixture(scope="module")
def champion(first_run: Run, versions) -> ModelVersion:
    assert first_run.state == "success"
    (version,) = versions(first_run.run_id)
    assert version.aliases == ("champion",)
    return version


@pytest.fixture(scope="module")
def training_pod(platform: dict[str, Any], core: client.CoreV1Api) -> Iterator[Callable[..., str]]:
    """Runs a program in a pod with the volumes and the environment that training pods have."""
    training = platform["training"]
    settings = training["pod"]
    container = {
        "command": ["sleep", "3600"],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *settings["extraVolumeMounts"]],
        "env": [
            {"name": "MLFLOW_TRACKING_URI", "value": training["trackingUri"]},
            {"name": "HOME", "value": "/tmp"},
        ],
    }
    volumes = [{"name": "tmp", "emptyDir": {}}, *settings["extraVolumes"]]
    namespace = training["namespace"]

    def command(*arguments: str) -> str:
        return output_of(core, POD, namespace, *arguments)

    with scratch(core, scratch_pod(training, POD, container, volumes=volumes), namespace):
        wait_until(
            "the pod to run",
            lambda: core.read_namespaced_pod(POD, namespace).status.phase == "Running",
            seconds=120,
        )
        yield command


def call(mlflow: Mlflow, method: str, path: str, auth: tuple[str, str] | None, **body: str) -> httpx.Response:
    sent = {"params": body} if method == "GET" else {"json": body}
    return httpx.request(method, f"{mlflow.base_url}{path}", auth=auth, timeout=30, trust_env=False, **sent)


def test_a_training_pod_writes_runs_and_moves_no_alias(
    champion: ModelVersion, training_pod: Callable[..., str], mlflow: Mlflow, first_run: Run, versions
) -> None:
    output = training_pod("python", "-c", CALLS, champion.name, champion.version, champion.run_id)
    results = json.loads(output.strip().splitlines()[-1])
    assert results == dict.fromkeys(results, 403) | ALLOWED
    assert versions(first_run.run_id) == [champion]


def test_who_does_not_log_in_learns_only_that_the_server_lives(
    mlflow: Mlflow, champion: ModelVersion
) -> None:
    alias = "/api/2.0/mlflow/registered-models/alias"
    asked = {"name": champion.name, "alias": "champion"}
    assert call(mlflow, "GET", "/health", None).status_code == 200
    assert call(mlflow, "GET", alias, None, **asked).status_code == 401
    assert call(mlflow, "POST", alias, None, **asked, version=champion.version).status_code == 401
    assert call(mlflow, "GET", alias, ("admin", "password1234"), **asked).status_code == 401
    assert call(mlflow, "GET", "/", None).status_code == 401


def test_no_argument_and_no_setting_of_the_pod_has_a_password(core: client.CoreV1Api) -> None:
    pod = component_of(core, "tracking-server", NAMESPACE)
    arguments = (
        "import pathlib; print(*(p.read_text() for p in pathlib.Path('/proc').glob('[0-9]*/cmdline')))"
    )
    output = output_of(core, pod, NAMESPACE, "python", "-c", arguments, container="mlflow")
    assert "--app-name=basic-auth" in output
    manifest = str(core.read_namespaced_pod(pod, NAMESPACE).spec)
    assert not re.search(r"postgresql\S*://[^/\s]*:", output + manifest)
