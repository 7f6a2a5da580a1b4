"""A DAG with Airflow's own Kubernetes operators, as it is found elsewhere, runs unchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import NAMESPACE, Run, copy_of_checkout, up
from kubernetes import client
from pods import PodRecorder, wait_until
from trainyard_cli.airflow_api import Airflow

pytestmark = [pytest.mark.alone, pytest.mark.nightly]

DAG = "train_elsewhere"
FILE = Path(__file__).parent / "public_dags" / f"{DAG}.py"
WHERE, LAUNCHER = "ml-jobs", "trainyard-stock-operators"
GI = 1 << 30


@pytest.fixture(scope="module")
def release(airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The release with the switch on and one DAG more; afterwards it is the checkout's again."""
    directory = tmp_path_factory.mktemp("checkout")
    checkout, values = copy_of_checkout(directory), directory / "values.json"
    shutil.copy(FILE, checkout / "dags")
    values.write_text(json.dumps({"stockOperators": {"enabled": True}}))
    try:
        up("--values", values, checkout=checkout)
        wait_until("the DAG", lambda: DAG in {each["dag_id"] for each in airflow.dags()}, seconds=120)
        yield
    finally:
        up()


@pytest.fixture(scope="module")
def launched(core: client.CoreV1Api) -> Iterator[PodRecorder]:
    recorder = PodRecorder(core, (WHERE,))
    recorder.start()
    yield recorder
    recorder.stop()


@pytest.fixture(scope="module")
def run(release: None, launched: PodRecorder, platform: dict[str, Any], trigger, finish) -> Run:
    return finish(trigger("elsewhere", DAG, image=platform["training"]["image"]), DAG)


def test_every_task_succeeds(run: Run) -> None:
    assert {task: each["state"] for task, each in run.tasks.items()} == dict.fromkeys(
        ("pod", "deferred", "job", "told"), "success"
    )
    assert run.state == "success"


def test_each_pod_had_a_gpu_node_and_shared_memory(
    run: Run, airflow: Airflow, core: client.CoreV1Api
) -> None:
    nodes = {
        each.metadata.name for each in core.list_node(label_selector="trainyard.dev/pool=ondemand").items
    }
    for task in ("pod", "deferred"):
        found = airflow.xcom(DAG, run.run_id, task, "return_value")
        assert (found["user"], found["shm"]) == (50000, GI)
        assert found["node"] in nodes
    assert airflow.xcom(DAG, run.run_id, "told", "return_value") in nodes


def test_only_their_worker_pods_hold_a_token(run: Run, recorder: PodRecorder) -> None:
    accounts = {}
    for task in ("pod", "deferred", "job", "told"):
        worker = next(
            pod for pod in recorder.of_task(run.run_id, task) if pod["metadata"]["namespace"] == NAMESPACE
        )
        spec = worker["spec"]
        accounts[task] = (spec["serviceAccountName"], spec.get("automountServiceAccountToken"))
    assert accounts.pop("told") == ("trainyard-airflow-worker", False)
    assert set(accounts.values()) == {(LAUNCHER, True)}


def test_nothing_of_theirs_is_left(run: Run, core: client.CoreV1Api) -> None:
    """Of Jobs, that is what Airflow's operator does only where it is told to."""

    def pods() -> list[str]:
        found = core.list_namespaced_pod(WHERE).items
        return [each.metadata.name for each in found if each.status.phase not in ("Succeeded", "Failed")]

    wait_until("the pods to go", lambda: not pods(), seconds=60)
