"""Nothing is left in the cluster of what a person ended, also where the triggerer cannot see to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest
from conftest import DAG, NAMESPACE, give_up
from kubernetes import client
from pods import Pod, PodRecorder, component_of, log_of, wait_until
from trainyard_cli.airflow_api import FINAL_RUN_STATES, Airflow

pytestmark = pytest.mark.alone

SLOW = {"epochs": 60, "epoch_seconds": 1}
SECONDS = 60  # by then a GPU is free again


@pytest.fixture
def rbac(core: client.CoreV1Api) -> client.RbacAuthorizationV1Api:
    return client.RbacAuthorizationV1Api(core.api_client)


@pytest.fixture
def apps(core: client.CoreV1Api) -> client.AppsV1Api:
    return client.AppsV1Api(core.api_client)


@contextmanager
def without_triggerer(apps: client.AppsV1Api, core: client.CoreV1Api) -> Iterator[None]:
    selector = "app.kubernetes.io/component=triggerer"

    def pods() -> list[Any]:
        return core.list_namespaced_pod(NAMESPACE, label_selector=selector).items

    def scale(replicas: int) -> None:
        body = {"spec": {"replicas": replicas}}
        apps.patch_namespaced_deployment_scale("trainyard-triggerer", NAMESPACE, body)

    scale(0)
    # Killed, not asked: it has no time to say or to do anything.
    core.delete_collection_namespaced_pod(NAMESPACE, label_selector=selector, grace_period_seconds=0)
    try:
        wait_until("the triggerer to go", lambda: not pods())
        yield
    finally:
        scale(1)


@contextmanager
def without_rights(rbac: client.RbacAuthorizationV1Api, namespace: str) -> Iterator[None]:
    """The API server refuses the triggerer whatever it asks for: 403."""
    name = "trainyard-training-launcher"
    binding = rbac.read_namespaced_role_binding(name, namespace)
    rbac.delete_namespaced_role_binding(name, namespace)
    try:
        yield
    finally:
        binding.metadata.resource_version = binding.metadata.uid = None
        rbac.create_namespaced_role_binding(namespace, binding)


def of_run(core: client.CoreV1Api, pod: Pod) -> dict[str, list[Any]]:
    """What there is in the cluster with the labels of a pod's run."""
    meta = pod["metadata"]
    selector = f"trainyard.dev/run-id={meta['labels']['trainyard.dev/run-id']}"
    jobs = client.BatchV1Api(core.api_client).list_namespaced_job
    lists = {"pods": core.list_namespaced_pod, "services": core.list_namespaced_service, "jobs": jobs}
    return {kind: each(meta["namespace"], label_selector=selector).items for kind, each in lists.items()}


def job_of(pod: Pod) -> str:
    return pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]


def delete(airflow: Airflow, run_id: str) -> None:
    """End a run, whose clean-up no triggerer does, and delete it."""
    run = f"/api/v2/dags/{DAG}/dagRuns/{quote(run_id)}"
    give_up(airflow, DAG, run_id)

    def has_ended() -> bool:
        states = {task["task_id"]: task["state"] for task in airflow.task_instances(DAG, run_id)}
        # Set in the moment in which the scheduler hands it to the triggerer, it is deferred all the same.
        if states["clean_up"] != "failed":
            airflow.request("PATCH", f"{run}/taskInstances/clean_up", json={"new_state": "failed"})
        return airflow.dag_run(DAG, run_id)["state"] in FINAL_RUN_STATES

    wait_until("the run to end", has_ended, every=2)
    airflow.request("DELETE", run)


def test_nothing_is_left_of_what_is_ended_while_there_is_no_triggerer(
    trigger, finish, versions, recorder: PodRecorder, core: client.CoreV1Api, apps, airflow
) -> None:
    run_id = trigger("ended-alone", **SLOW)
    pod = recorder.wait_for_running(run_id)
    with without_triggerer(apps, core):
        clear = {"dag_run_id": run_id, "task_ids": ["train"], "only_failed": False, "dry_run": False}
        airflow.request("POST", f"/api/v2/dags/{DAG}/clearTaskInstances", json=clear)
        wait_until("the train pod to go", lambda: recorder.is_gone(pod), seconds=SECONDS)
        # The Job goes after its pods, and after what Kueue has of it.
        wait_until("the Job to go", lambda: not any(of_run(core, pod).values()), seconds=SECONDS)
        told = log_of(core, component_of(core, "reconciler", NAMESPACE), NAMESPACE)
        words = "was cleared, tried again or deleted with its run: nobody waits for it"
        assert f"task train of run {run_id} of DAG {DAG} {words}" in told
        delete(airflow, run_id)
        # The same run once more, whose Job has the name of the deleted one's, and its checkpoint.
        assert trigger("ended-alone", **SLOW) == run_id

    again = finish(run_id)
    assert (again.state, again.tasks["train"]["try_number"]) == ("success", 1)
    first, second = recorder.of_task(run_id, "train")
    assert job_of(first) == job_of(second)
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert len(versions(run_id)) == 1
    wait_until("nothing to be left", lambda: not any(of_run(core, pod).values()), seconds=SECONDS)


def test_nothing_is_left_where_the_api_server_refuses_the_triggerer(
    trigger, finish, recorder: PodRecorder, core: client.CoreV1Api, rbac, platform, airflow
) -> None:
    run_id = trigger("refused", **SLOW)
    pod = recorder.wait_for_running(run_id)
    with without_rights(rbac, platform["training"]["namespace"]):
        give_up(airflow, DAG, run_id)
        wait_until("the train pod to go", lambda: recorder.is_gone(pod), seconds=SECONDS)
    assert finish(run_id).state == "failed"
    wait_until("nothing to be left", lambda: not any(of_run(core, pod).values()), seconds=SECONDS)
    (event,) = (
        each
        for each in core.list_namespaced_event(pod["metadata"]["namespace"]).items
        if each.reason == "NobodyWaits" and each.involved_object.name == job_of(pod)
    )
    assert event.message == f"task train of run {run_id} of DAG {DAG} is failed: nobody waits for it"
