"""Kueue in front of the GPUs: the order, gangs whole or not at all, preemption, and a Kueue that is away."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DAG, metric_steps, run_tags
from kubernetes import client
from pods import Pod, PodRecorder, epochs_done, wait_until
from queues import gpu_job, jobs, pods_of, queued_release, running
from trainyard.kube.jobs import JobKube
from trainyard.naming import TaskIdentity
from trainyard.platform import load_platform
from trainyard.training.attempt import RetryPlan
from trainyard.training.job_run import JobRun
from trainyard.training.leftovers import delete_leftovers
from trainyard.training.pod import TrainingRequest
from trainyard.training.shared import Shared
from trainyard.training.start import QUEUE_POLL_SECONDS
from trainyard_cli.airflow_api import Airflow

pytestmark = [pytest.mark.alone, pytest.mark.nightly]

KUEUE = "kueue-system"
SELECTOR = "app.kubernetes.io/name=kueue"
INDEX = "batch.kubernetes.io/job-completion-index"
EPOCHS = 14
SETTLE_SECONDS = 10  # until who has told its place watches again
Make = Callable[..., str]
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def queued(
    airflow: Airflow, core: client.CoreV1Api, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    with queued_release({}, airflow, core, tmp_path_factory.mktemp("queues")) as platform:
        yield platform


@pytest.fixture
def make(core: client.CoreV1Api, queued: dict[str, Any]) -> Iterator[Make]:
    """Makes a Job that waits in a pool's queue and holds GPUs for some seconds; deletes it at the end."""
    namespace = queued["training"]["namespace"]
    with jobs(core, namespace) as made:

        def _make(name: str, pool: str, *, nodes: int = 1, seconds: int = 900, **spec: Any) -> str:
            batch, job = (
                client.BatchV1Api(core.api_client),
                gpu_job(queued, name, pool, nodes, seconds, **spec),
            )
            batch.create_namespaced_job(namespace, job)
            made.append(name)
            return name

        yield _make


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
    queued,
) -> None:
    run_id = trigger("preempted", nodes=2, epochs=EPOCHS, epoch_seconds=1)

    def both() -> list[Pod] | None:
        pods = recorder.running(run_id)
        return pods if len(pods) == 2 else None

    wait_until("both pods to run", both, seconds=240)
    leader = next(pod for pod in recorder.running(run_id) if pod["metadata"]["annotations"][INDEX] == "0")
    frequency = queued["training"]["checkpointFreq"]
    wait_until("a checkpoint", lambda: epochs_done(core, leader) > frequency, seconds=180)
    make("e2e-urgent", "ondemand", seconds=30, priorityClassName="trainyard-interactive")
    wait_until("the urgent Job to run", lambda: _running(core, queued, "e2e-urgent"), seconds=120)
    # Kueue itself is killed while one Job runs and another one waits.
    core.delete_collection_namespaced_pod(KUEUE, label_selector=SELECTOR, grace_period_seconds=0)

    def told() -> str:
        pending = airflow.xcom(DAG, run_id, "train", "pending")
        return pending["reason"] if not pending["resolved"] else ""

    reason = wait_until("the reason", told, seconds=60)
    assert reason.startswith("1 of 2 GPUs free in pool ondemand; position 1 of 1; a Job of higher priority")
    run = finish(run_id)

    assert (run.state, run.tasks["train"]["try_number"]) == ("success", 1)
    pods = recorder.of_task(run_id, "train")
    assert sorted(pod["metadata"]["annotations"][INDEX] for pod in pods) == ["0", "0", "1", "1"]
    assert len({pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] for pod in pods}) == 1, (
        "no other attempt"
    )
    (version,) = versions(run_id)
    assert int(run_tags(mlflow, version.run_id)["trainyard.resumed_from_epoch"]) >= frequency
    assert metric_steps(mlflow, version.run_id, "val_f1_macro") == list(range(1, EPOCHS + 1))


def test_gangs_never_hold_a_part_and_nobody_passes_them(
    make: Make, core: client.CoreV1Api, queued: dict[str, Any]
) -> None:
    gangs = []
    for number in range(2):
        gangs.append(make(f"e2e-gang-{number}", "ondemand", nodes=2, seconds=8))
        time.sleep(1.1)  # the age of objects is told in whole seconds
    single = make("e2e-single", "ondemand", seconds=1)
    started: list[str] = []
    held: set[tuple[int, ...]] = set()

    def all_done() -> bool:
        numbers = tuple(_running(core, queued, name) for name in gangs)
        held.add(numbers)
        for name in (*gangs, single):
            if name not in started and any(pod.spec.node_name for pod in _pods(core, queued, name)):
                started.append(name)
        return any(pod.status.phase == "Succeeded" for pod in _pods(core, queued, single))

    wait_until("all to have run", all_done, seconds=180, every=0.2)
    assert started == [*gangs, single]
    assert (1, 1) not in held, "each would wait for the other one's GPU"
    assert not [numbers for numbers in held if min(numbers) > 0]


def test_who_waits_for_one_pool_stops_nobody_who_waits_for_another(
    make: Make, core: client.CoreV1Api, queued: dict[str, Any]
) -> None:
    make("e2e-holds", "ondemand", nodes=2)
    wait_until("the pool to be full", lambda: _running(core, queued, "e2e-holds") == 2)
    make("e2e-waits", "ondemand")
    make("e2e-spot", "spot")
    wait_until("the Job for spot to run", lambda: _running(core, queued, "e2e-spot"))
    (pod,) = _pods(core, queued, "e2e-spot")
    assert core.read_node(pod.spec.node_name).metadata.labels["trainyard.dev/pool"] == "spot"
    assert _pods(core, queued, "e2e-waits") == []


def test_gpus_are_not_had_past_the_queue(core: client.CoreV1Api, queued: dict[str, Any]) -> None:
    namespace, job = queued["training"]["namespace"], gpu_job(queued, "e2e-past", "ondemand", 1, 1)
    pod = {"metadata": {"name": "e2e-past"}, "spec": job["spec"]["template"]["spec"]}
    with pytest.raises(client.ApiException, match="run the pod as a Job with the label"):
        core.create_namespaced_pod(namespace, pod, dry_run="All")
    del job["metadata"]["labels"]
    batch = client.BatchV1Api(core.api_client)
    with pytest.raises(client.ApiException, match=r"set the label kueue\.x-k8s\.io/queue-name"):
        batch.create_namespaced_job(namespace, job, dry_run="All")


# For its figures: ./scripts/_python --dev pytest tests/e2e/test_queues.py -k seldom --log-cli-level=INFO
@pytest.mark.parametrize("waiters", [40, 200])
def test_who_waits_asks_the_api_server_seldom(
    waiters: int, make: Make, core: client.CoreV1Api, queued: dict[str, Any], tmp_path: Path
) -> None:
    make("e2e-holds", "ondemand", nodes=2)
    wait_until("the pool to be full", lambda: _running(core, queued, "e2e-holds") == 2)
    file = tmp_path / "platform.json"
    file.write_text(json.dumps(queued))
    requests = asyncio.run(_requests_of_waiters(file, waiters))
    told = f"{requests} requests of {waiters} waiters in {QUEUE_POLL_SECONDS} s"
    log.info("%s: %.2f a second", told, requests / QUEUE_POLL_SECONDS)
    # Forty of them at most one a second.
    assert requests <= QUEUE_POLL_SECONDS * waiters / 40, told


class CountingKube(JobKube):
    """Counts its requests."""

    requests = 0

    async def _request(self, *args: Any, **kwargs: Any) -> Any:
        self.requests += 1
        return await super()._request(*args, **kwargs)


async def _requests_of_waiters(platform_file: Path, waiters: int) -> int:
    """How many requests trials that wait for a GPU make between two looks, after each has told its place."""
    platform, told = load_platform(platform_file), set()
    run_id = f"waits-{waiters}-{os.getpid()}"
    async with CountingKube(platform.training.namespace) as kube:

        def waiter(number: int) -> JobRun:
            async def announce(xcoms: Any) -> None:
                assert xcoms["pending"]["kind"] == "queue"
                told.add(number)

            async def alert(*_: Any) -> None: ...

            request = TrainingRequest(
                step="train",
                dataset="file:///data/none",
                output_uri="file:///checkpoints/none",
                deadline_seconds=600,
                gpu_pool="ondemand",
            )
            task = TaskIdentity("e2e", run_id, "train", number, 1)
            shared = Shared(
                kube,
                platform,
                request,
                task,
                log,
                plan=RetryPlan(),
                queue_seconds=3600,
                startup_seconds=3600,
                announce=announce,
            )
            return JobRun(shared, alert)

        runs = [asyncio.create_task(waiter(number).run()) for number in range(waiters)]
        try:
            deadline = time.monotonic() + 240
            while len(told) < waiters:
                assert time.monotonic() < deadline, f"{len(told)} have told their place"
                await asyncio.sleep(1)
            await asyncio.sleep(SETTLE_SECONDS)
            before = kube.requests
            await asyncio.sleep(QUEUE_POLL_SECONDS)
            return kube.requests - before
        finally:
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)
            await delete_leftovers(kube, f"trainyard.dev/run-id={run_id}")
