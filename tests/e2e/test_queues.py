"""Kueue in front of the GPUs: the order, gangs whole or not at all, preemption, and a Kueue that is away.

And the same training without queues.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DAG, NAMESPACE, run_tags
from kubernetes import client
from pods import PodRecorder, sync_mounts, wait_until
from queues import (
    JOB,
    QUEUE,
    Make,
    as_platform,
    check_resumed,
    gpu_job,
    job_of,
    job_run,
    making_jobs,
    outcome_of,
    pods_of,
    running,
    training_with,
    why_waiting,
    with_a_checkpoint,
)
from trainyard.failures import Cause
from trainyard.kube.jobs import JobKube
from trainyard.naming import TaskIdentity
from trainyard.training.leftovers import delete_leftovers
from trainyard.training.start import QUEUE_POLL_SECONDS
from trainyard_cli.airflow_api import Airflow

pytestmark = pytest.mark.alone

KUEUE = "kueue-system"
SELECTOR = "app.kubernetes.io/name=kueue"
OFF = {"queues": {"kueue": {"enabled": False}}}
EPOCHS = 14
LONG = {"epochs": 8, "epoch_seconds": 1}  # so long that its Job is seen
SETTLE_SECONDS = 10  # until who has told its place watches again
PART_SECONDS = 40  # for two pods to get their nodes
log = logging.getLogger(__name__)


@pytest.fixture
def make(core: client.CoreV1Api, platform: dict[str, Any]) -> Iterator[Make]:
    with making_jobs(core, platform) as make:
        yield make


def _pods(core: client.CoreV1Api, platform: dict[str, Any], job: str) -> list[Any]:
    return pods_of(core, platform["training"]["namespace"], job)


def _running(core: client.CoreV1Api, platform: dict[str, Any], job: str) -> int:
    return running(core, platform["training"]["namespace"], job)


def test_a_preempted_run_goes_on_from_its_checkpoint_though_kueue_is_killed(
    make: Make,
    trigger,
    finish,
    versions,
    recorder: PodRecorder,
    core: client.CoreV1Api,
    airflow,
    mlflow,
    platform: dict[str, Any],
) -> None:
    run_id = trigger("preempted", nodes=2, epochs=EPOCHS, epoch_seconds=1)
    with_a_checkpoint(core, recorder, run_id, platform)
    make("e2e-urgent", "ondemand", seconds=30, priorityClassName="trainyard-interactive")
    wait_until("the urgent Job to run", lambda: _running(core, platform, "e2e-urgent"), seconds=120)
    # Kueue itself is killed while one Job runs and another one waits.
    core.delete_collection_namespaced_pod(KUEUE, label_selector=SELECTOR, grace_period_seconds=0)
    reason = why_waiting(airflow, run_id)
    assert reason.startswith("1 of 2 GPUs free in pool ondemand; position 1 of 1; a Job of higher priority")
    run = finish(run_id)

    (version,) = versions(run_id)
    pods = check_resumed(run, version.run_id, recorder, mlflow, platform, EPOCHS)
    assert len({pod["metadata"]["labels"][JOB] for pod in pods}) == 1, "no other attempt"


def test_gangs_never_hold_a_part_and_nobody_passes_them(
    make: Make, core: client.CoreV1Api, platform: dict[str, Any]
) -> None:
    gangs = []
    for number in range(2):
        gangs.append(make(f"e2e-gang-{number}", "ondemand", nodes=2, seconds=8))
        time.sleep(1.1)  # the age of objects is told in whole seconds
    single = make("e2e-single", "ondemand", seconds=1)
    started: list[str] = []
    held: set[tuple[int, ...]] = set()

    def all_done() -> bool:
        numbers = tuple(_running(core, platform, name) for name in gangs)
        held.add(numbers)
        for name in (*gangs, single):
            if name not in started and any(pod.spec.node_name for pod in _pods(core, platform, name)):
                started.append(name)
        return any(pod.status.phase == "Succeeded" for pod in _pods(core, platform, single))

    wait_until("all to have run", all_done, seconds=180, every=0.2)
    assert started == [*gangs, single]
    assert (1, 1) not in held, "each would wait for the other one's GPU"
    assert not [numbers for numbers in held if min(numbers) > 0]


@pytest.mark.nightly
def test_who_waits_for_one_pool_stops_nobody_who_waits_for_another(
    make: Make, core: client.CoreV1Api, platform: dict[str, Any]
) -> None:
    make("e2e-holds", "ondemand", nodes=2)
    wait_until("the pool to be full", lambda: _running(core, platform, "e2e-holds") == 2)
    make("e2e-waits", "ondemand")
    make("e2e-spot", "spot")
    wait_until("the Job for spot to run", lambda: _running(core, platform, "e2e-spot"))
    (pod,) = _pods(core, platform, "e2e-spot")
    assert core.read_node(pod.spec.node_name).metadata.labels["trainyard.dev/pool"] == "spot"
    assert _pods(core, platform, "e2e-waits") == []


@pytest.fixture
def listed(airflow: Airflow, core: client.CoreV1Api, tmp_path: Path) -> Iterator[None]:
    """The release with a list of pools as well; the DAGs' parameters offer it."""
    values = {"gpuPoolLists": {"cheapest": {"pools": ["spot", "ondemand"]}}}
    with training_with(values, airflow, core, tmp_path):
        sync_mounts(core, "dag-processor", NAMESPACE)

        def is_offered() -> bool:
            return "cheapest" in json.dumps(airflow.request("GET", f"/api/v2/dags/{DAG}/details"))

        wait_until("the list to be offered", is_offered, seconds=180)
        yield


@pytest.mark.nightly
def test_a_list_of_pools_takes_spot_if_it_is_free_and_else_on_demand(
    listed: None,
    make: Make,
    trigger,
    finish,
    versions,
    recorder: PodRecorder,
    core: client.CoreV1Api,
    airflow,
    mlflow,
    platform: dict[str, Any],
) -> None:
    def trained_in(name: str) -> str:
        run_id = trigger(name, pool="cheapest")
        assert finish(run_id).state == "success"
        (pod,) = recorder.of_task(run_id, "train")
        pool = core.read_node(pod["spec"]["nodeName"]).metadata.labels["trainyard.dev/pool"]
        assert airflow.xcom(DAG, run_id, "train", "gpu_pool") == pool
        (version,) = versions(run_id)
        assert run_tags(mlflow, version.run_id)["trainyard.gpu_pool"] == pool
        return pool

    assert trained_in("list-free") == "spot"
    make("e2e-holds", "spot")
    wait_until("spot to be full", lambda: _running(core, platform, "e2e-holds"))
    assert trained_in("list-full") == "ondemand"


def test_gpus_are_not_had_past_the_queue(core: client.CoreV1Api, platform: dict[str, Any]) -> None:
    namespace, job = platform["training"]["namespace"], gpu_job(platform, "e2e-past", "ondemand", 1, 1)
    pod = {"metadata": {"name": "e2e-past"}, "spec": job["spec"]["template"]["spec"]}
    with pytest.raises(client.ApiException, match="run the pod as a Job with the label"):
        core.create_namespaced_pod(namespace, pod, dry_run="All")
    del job["metadata"]["labels"]
    batch = client.BatchV1Api(core.api_client)
    with pytest.raises(client.ApiException, match=r"set the label kueue\.x-k8s\.io/queue-name"):
        batch.create_namespaced_job(namespace, job, dry_run="All")


# For its figures: ./scripts/_python --dev pytest tests/e2e/test_queues.py -k seldom --log-cli-level=INFO
@pytest.mark.nightly
@pytest.mark.parametrize("waiters", [40, 200])
def test_who_waits_asks_the_api_server_seldom(
    waiters: int, make: Make, core: client.CoreV1Api, platform: dict[str, Any]
) -> None:
    make("e2e-holds", "ondemand", nodes=2)
    wait_until("the pool to be full", lambda: _running(core, platform, "e2e-holds") == 2)
    requests = asyncio.run(_requests_of_waiters(platform, waiters))
    told = f"{requests} requests of {waiters} waiters in {QUEUE_POLL_SECONDS} s"
    log.info("%s: %.2f a second", told, requests / QUEUE_POLL_SECONDS)
    # Forty of them at most one a second.
    assert requests <= QUEUE_POLL_SECONDS * waiters / 40, told


class CountingKube(JobKube):
    """Counts the requests of all clients of this class."""

    requests = 0

    async def _request(self, *args: Any, **kwargs: Any) -> Any:
        CountingKube.requests += 1
        return await super()._request(*args, **kwargs)


async def _requests_of_waiters(told_platform: dict[str, Any], waiters: int) -> int:
    """How many requests trials that wait for a GPU make between two looks, after each has told its place."""
    platform, told = as_platform(told_platform), set()
    run_id = f"waits-{waiters}-{os.getpid()}"

    async def wait_for_a_gpu(number: int) -> None:
        async def announce(xcoms: Any) -> None:
            assert xcoms["pending"]["kind"] == "queue"
            told.add(number)

        task = TaskIdentity("e2e", run_id, "train", number, 1)
        # As each trigger has: the connections of one client would not do for 200 watches.
        async with CountingKube(platform.training.namespace) as kube:
            await job_run(kube, platform, task, announce=announce).run()

    runs = [asyncio.create_task(wait_for_a_gpu(number)) for number in range(waiters)]
    try:
        deadline = time.monotonic() + 240
        while len(told) < waiters:
            assert time.monotonic() < deadline, f"{len(told)} have told their place"
            await asyncio.sleep(1)
        await asyncio.sleep(SETTLE_SECONDS)
        before = CountingKube.requests
        await asyncio.sleep(QUEUE_POLL_SECONDS)
        return CountingKube.requests - before
    finally:
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
        async with JobKube(platform.training.namespace) as kube:
            await delete_leftovers(kube, f"trainyard.dev/run-id={run_id}")


@pytest.mark.nightly
def test_without_queues_the_same_training_starts_at_once(
    trigger, finish, recorder: PodRecorder, core: client.CoreV1Api, airflow, tmp_path: Path
) -> None:
    with training_with(OFF, airflow, core, tmp_path) as platform:
        namespace = platform["training"]["namespace"]
        run_id = trigger("unqueued", **LONG)
        recorder.wait_for_running(run_id)
        job = job_of(core, namespace, run_id)
        assert QUEUE not in job.metadata.labels
        assert _workloads(core, job) == []
        assert finish(run_id).state == "success"
        # A gang that has found a part of its GPUs does not wait for the others as long as for its turn.
        pool = platform["pools"]["ondemand"]
        gpus = pool["maxNodes"] * pool["gpusPerNode"]
        outcome = outcome_of(
            platform,
            TaskIdentity("e2e", f"part-{tmp_path.name}", "train", -1, 1),
            nodes=gpus + 1,
            dataset=airflow.xcom(DAG, run_id, "preprocess", "dataset"),
            startup_seconds=PART_SECONDS,
            # No run of this is to be seen in MLflow: rank 0 waits for one that does not answer.
            env_vars={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        )
        assert outcome.cause is Cause.UNSCHEDULABLE
        told = f"not started within {PART_SECONDS} s: {gpus} of {gpus + 1} pods have a node"
        assert told in outcome.message

    run_id = trigger("queued-again", **LONG)
    recorder.wait_for_running(run_id)
    job = job_of(core, namespace, run_id)
    assert job.metadata.labels[QUEUE] == "ondemand"
    assert len(_workloads(core, job)) == 1
    assert finish(run_id).state == "success"


def _workloads(core: client.CoreV1Api, job: Any) -> list[Any]:
    """What Kueue has made for a Job."""
    selector = f"kueue.x-k8s.io/job-uid={job.metadata.uid}"
    kind = ("kueue.x-k8s.io", "v1beta2", job.metadata.namespace, "workloads")
    api = client.CustomObjectsApi(core.api_client)
    found: list[Any] = api.list_namespaced_custom_object(*kind, label_selector=selector)["items"]
    return found
