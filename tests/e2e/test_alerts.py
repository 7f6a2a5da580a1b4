"""A failed run is reported once to a receiver in the cluster, and a receiver that is gone hurts nothing."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import DAG, NAMESPACE
from kubernetes import client
from pods import component_of, if_there, log_of, output_of, sync_mounts, wait_until
from receiver import NAME, PORT, receiver_pod

pytestmark = pytest.mark.alone

SCRATCH = "scratch-alerts"
SECRET = "trainyard-alerts"
COPY = "trainyard-alerts-before-test"
TOKEN = "t0ken-of-the-webhook"
BROKEN = {"dataset": "file:///data/no-such-directory/digits.csv"}


@pytest.fixture(scope="module")
def receiver(core: client.CoreV1Api, platform: dict[str, Any]) -> Iterator[client.V1Pod]:
    """A pod that gets messages, in a namespace of its own."""
    with receiver_pod(core, platform["training"], SCRATCH) as pod:
        yield pod


@pytest.fixture(scope="module")
def told(core: client.CoreV1Api, receiver: client.V1Pod) -> Iterator[None]:
    """The Secret names the receiver, and the dag-processor has seen it; afterwards it is as it was."""
    url = f"http://{receiver.status.pod_ip}:{PORT}/{TOKEN}"
    _restore(core)  # an earlier session may have been killed
    _copy(core, _secret(core, SECRET) or client.V1Secret(), COPY)
    try:
        _delete(core, SECRET)
        body = {"metadata": {"name": SECRET}, "stringData": {"webhook-url": url}}
        core.create_namespaced_secret(NAMESPACE, body)
        sync_mounts(core, "dag-processor", NAMESPACE)
        wait_until("the Secret to reach the dag-processor", lambda: _mounted(core) == url, seconds=240)
        yield
    finally:
        _restore(core)


@pytest.mark.usefixtures("told")
def test_one_failed_run_is_one_alert(core: client.CoreV1Api, trigger: Callable, finish: Callable) -> None:
    run = finish(trigger("alert", **BROKEN))
    assert run.state == "failed"
    alert = wait_until("the alert", lambda: next(iter(_heard(core, run.run_id)), None), seconds=240)
    assert alert["severity"] == "error"
    (failure,) = alert["details"]["failures"]
    assert failure["task_id"] == "validate"
    assert failure["cause"] in ("bad_data", "bad_config")
    assert "no-such-directory" in failure["message"]
    assert failure["log"] and f"validate: {failure['cause']}" in alert["text"]
    assert alert["links"]["run"].endswith(f"/dags/{DAG}/runs/{run.run_id}")
    assert alert["links"]["log of validate"].startswith(alert["links"]["run"])

    # A second run, which has its own alert, leaves the first one with one.
    other = finish(trigger("alert-again", **BROKEN))
    wait_until("the second alert", lambda: _heard(core, other.run_id), seconds=240)
    assert len(_heard(core, run.run_id)) == 1


@pytest.mark.usefixtures("told")
def test_a_receiver_that_is_gone_hurts_no_run(
    core: client.CoreV1Api, trigger: Callable, finish: Callable
) -> None:
    core.delete_namespaced_pod(NAME, SCRATCH, grace_period_seconds=0)
    began = time.monotonic()
    run = finish(trigger("alert-down", **BROKEN))
    assert run.state == "failed"
    log = wait_until("the dag-processor to give up", lambda: _told_of_failure(core, began), seconds=240)
    assert TOKEN not in log


def _heard(core: client.CoreV1Api, run_id: str) -> list[dict[str, Any]]:
    lines = log_of(core, NAME, SCRATCH).splitlines()
    return [alert for alert in map(json.loads, lines) if alert["key"] == f"{DAG}/{run_id}"]


def _told_of_failure(core: client.CoreV1Api, began: float) -> str | None:
    """The dag-processor's log since a moment, once it says that the webhook did not take an alert."""
    since = math.ceil(time.monotonic() - began)
    log = log_of(core, _dag_processor(core), NAMESPACE, since_seconds=since)
    lines = [line for line in log.splitlines() if "alert to webhook" in line]
    return log if lines and "sent" not in lines[-1] else None


def _restore(core: client.CoreV1Api) -> None:
    """Make the Secret what it was when it was copied; a copy without data says that there was none."""
    before = _secret(core, COPY)
    if before:
        _delete(core, SECRET)
        if before.data:
            _copy(core, before, SECRET)
        _delete(core, COPY)


def _copy(core: client.CoreV1Api, secret: client.V1Secret, name: str) -> None:
    labels = secret.metadata.labels if secret.metadata else None
    metadata = client.V1ObjectMeta(name=name, labels=labels)
    copy = client.V1Secret(metadata=metadata, type=secret.type, data=secret.data)
    core.create_namespaced_secret(NAMESPACE, copy)


def _secret(core: client.CoreV1Api, name: str) -> client.V1Secret | None:
    return if_there(core.read_namespaced_secret, name, NAMESPACE)


def _delete(core: client.CoreV1Api, name: str) -> None:
    if_there(core.delete_namespaced_secret, name, NAMESPACE)


def _mounted(core: client.CoreV1Api) -> str:
    look = ("sh", "-c", "cat /opt/airflow/alerts/webhook-url 2>/dev/null || true")
    return output_of(core, _dag_processor(core), NAMESPACE, *look).strip()


def _dag_processor(core: client.CoreV1Api) -> str:
    return component_of(core, "dag-processor", NAMESPACE)
