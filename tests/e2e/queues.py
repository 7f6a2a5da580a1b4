"""Jobs that wait in the release's queues, and trainings that a test's process follows as a triggerer does."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import DAG, NAMESPACE, Run, metric_steps, released_with, run_tags, wait_for_platform_file
from kubernetes import client
from pods import Pod, PodRecorder, epochs_done, gpu_sleeper, if_there, wait_until
from trainyard.kube.jobs import JobKube
from trainyard.naming import TaskIdentity
from trainyard.platform import Platform, load_platform
from trainyard.training.attempt import RetryPlan
from trainyard.training.job_run import JobRun
from trainyard.training.leftovers import delete_leftovers
from trainyard.training.outcomes import Outcome
from trainyard.training.pod import TrainingRequest
from trainyard.training.shared import Shared
from trainyard_cli.airflow_api import Airflow
from trainyard_cli.mlflow_api import Mlflow

QUEUE = "kueue.x-k8s.io/queue-name"
JOB = "batch.kubernetes.io/job-name"
INDEX = "batch.kubernetes.io/job-completion-index"
Make = Callable[..., str]


@contextmanager
def training_with(
    values: dict[str, Any], airflow: Airflow, core: client.CoreV1Api, directory: Path
) -> Iterator[dict[str, Any]]:
    """The release with further values, as its platform file tells; afterwards it is as it was.

    Either way the triggerer knows.
    """
    try:
        with released_with(values, airflow, directory):
            yield _as_the_triggerer_knows(core)
    finally:
        _as_the_triggerer_knows(core)


def _as_the_triggerer_knows(core: client.CoreV1Api) -> dict[str, Any]:
    """The release's platform file, once the triggerer has it."""
    told = core.read_namespaced_config_map("trainyard-platform", NAMESPACE).data["platform.json"]
    platform: dict[str, Any] = json.loads(told)
    wait_for_platform_file(core, lambda text: json.loads(text) == platform)
    return platform


# ---- Jobs that hold GPUs


def gpu_job(
    platform: dict[str, Any], name: str, pool: str, nodes: int, seconds: int, **spec: Any
) -> dict[str, Any]:
    """The manifest of a Job that waits in a pool's queue, and holds a GPU of each node for some seconds."""
    pod = gpu_sleeper(platform, name, pool, seconds, **spec)
    return {
        "metadata": {"name": name, "labels": {QUEUE: platform["pools"][pool]["queue"]}},
        "spec": {
            "suspend": True,
            "backoffLimit": 0,
            "completionMode": "Indexed",
            "completions": nodes,
            "parallelism": nodes,
            "template": {"spec": pod["spec"]},
        },
    }


@contextmanager
def making_jobs(core: client.CoreV1Api, platform: dict[str, Any], namespace: str = "") -> Iterator[Make]:
    """A function that makes such a Job and returns its name; they are deleted at the end, with their pods.

    Their namespace is that of training, or another one.
    """
    batch = client.BatchV1Api(core.api_client)
    where = namespace or platform["training"]["namespace"]
    made: list[str] = []

    def _make(name: str, pool: str, *, nodes: int = 1, seconds: int = 900, **spec: Any) -> str:
        _delete_jobs(batch, where, [name])  # of a session that was killed
        batch.create_namespaced_job(where, gpu_job(platform, name, pool, nodes, seconds, **spec))
        made.append(name)
        return name

    try:
        yield _make
    finally:
        _delete_jobs(batch, where, made)


def _delete_jobs(batch: client.BatchV1Api, namespace: str, names: list[str]) -> None:
    for name in names:
        if_there(batch.delete_namespaced_job, name, namespace, propagation_policy="Foreground")
    for name in names:
        field = f"metadata.name={name}"
        wait_until(
            f"Job {name} to go",
            lambda field=field: not batch.list_namespaced_job(namespace, field_selector=field).items,
        )


def pods_of(core: client.CoreV1Api, namespace: str, job: str) -> list[Any]:
    """A Job's pods."""
    return core.list_namespaced_pod(namespace, label_selector=f"{JOB}={job}").items


def running(core: client.CoreV1Api, namespace: str, job: str) -> int:
    """How many of a Job's pods run."""
    return sum(pod.status.phase == "Running" for pod in pods_of(core, namespace, job))


# ---- runs of the DAG


def job_of(core: client.CoreV1Api, namespace: str, run_id: str) -> Any:
    """The newest Job of a run's training, or None: while it waits in a queue it has no pod."""
    wanted = {"trainyard.dev/run-id": run_id, "trainyard.dev/task-id": "train"}
    jobs = client.BatchV1Api(core.api_client).list_namespaced_job(namespace).items
    own = [job for job in jobs if wanted.items() <= (job.metadata.annotations or {}).items()]
    return max(own, key=lambda job: job.metadata.creation_timestamp, default=None)


def why_waiting(airflow: Airflow, run_id: str) -> str:
    """Why a run's training waits, once it does."""

    def told() -> str:
        pending = airflow.xcom(DAG, run_id, "train", "pending")
        return pending["reason"] if pending and not pending["resolved"] else ""

    return str(wait_until("the reason for waiting", told, seconds=60))


def rank(pod: Pod) -> int:
    """The rank of a pod of a training."""
    return int(pod["metadata"]["annotations"][INDEX])


def with_a_checkpoint(
    core: client.CoreV1Api, recorder: PodRecorder, run_id: str, platform: dict[str, Any]
) -> list[Pod]:
    """The two pods of a training on two nodes, in the order of their ranks, once it has a checkpoint."""

    def both() -> list[Pod] | None:
        pods = recorder.running(run_id)
        return sorted(pods, key=rank) if len(pods) == 2 else None

    pods: list[Pod] = wait_until("both pods to run", both, seconds=300)
    frequency = platform["training"]["checkpointFreq"]
    wait_until("a checkpoint", lambda: epochs_done(core, pods[0]) > frequency, seconds=180)
    return pods


def check_resumed(
    run: Run,
    mlflow_run: str,
    recorder: PodRecorder,
    mlflow: Mlflow,
    platform: dict[str, Any],
    epochs: int,
    metric: str = "f1_macro",
) -> list[Pod]:
    """Check that a training on two nodes lost its pods once, and no try and no epoch; return all its pods."""
    ended = (run.state, run.tasks["train"]["try_number"])
    assert ended == ("success", 1), f"{ended}: no try is used up"
    pods = recorder.of_task(run.run_id, "train")
    ranks = sorted(map(rank, pods))
    assert ranks == [0, 0, 1, 1], f"{ranks}: both pods were made twice"
    resumed_from = run_tags(mlflow, mlflow_run)["trainyard.resumed_from_epoch"]
    assert int(resumed_from) >= platform["training"]["checkpointFreq"], f"it resumed from {resumed_from}"
    steps = metric_steps(mlflow, mlflow_run, f"val_{metric}")
    assert steps == list(range(1, epochs + 1)), f"{steps}: there is a gap or a duplicate"
    return pods


# ---- trainings without a run


async def _ignore(*_: Any) -> None: ...


def job_run(
    kube: JobKube,
    platform: Platform,
    task: TaskIdentity,
    *,
    queue_seconds: int = 3600,
    startup_seconds: int = 300,
    announce: Callable[[Any], Awaitable[None]] = _ignore,
    **request: Any,
) -> JobRun:
    """A try that trains on a GPU of the on-demand pool, on no data unless `request` says so."""
    usual = {
        "step": "train",
        "dataset": "file:///data/none",
        "output_uri": "file:///checkpoints/none",
        "deadline_seconds": 600,
        "gpu_pool": "ondemand",
    }
    shared = Shared(
        kube,
        platform,
        TrainingRequest(**{**usual, **request}),
        task,
        logging.getLogger(__name__),
        plan=RetryPlan(),
        queue_seconds=queue_seconds,
        startup_seconds=startup_seconds,
        announce=announce,
    )
    return JobRun(shared, _ignore)


def outcome_of(told: dict[str, Any], task: TaskIdentity, **options: Any) -> Outcome:
    """How such a try ends, which is followed here to its end; nothing is left of it."""

    async def follow() -> Outcome:
        platform = as_platform(told).for_dag(task.dag_id)
        async with JobKube(platform.training.namespace) as kube:
            try:
                return await job_run(kube, platform, task, **options).run()
            finally:
                await delete_leftovers(kube, task.selector())

    return asyncio.run(follow())


def as_platform(told: dict[str, Any]) -> Platform:
    """What a platform file tells, as the library reads it."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "platform.json"
        file.write_text(json.dumps(told))
        return load_platform(file)
