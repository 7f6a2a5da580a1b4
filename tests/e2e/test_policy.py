"""The retry policy on the cluster: memory that runs out, GPUs that do not come, nodes that are reclaimed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import DAG, metric_steps, run_tags
from kubernetes import client
from pods import Pod, PodRecorder, epochs_done, limits_of, node_of, wait_until
from queues import job_of, making_jobs, running

pytestmark = pytest.mark.alone

GPU = "nvidia.com/gpu"
EPOCHS = 14
# PyTorch and MLflow take 215 MiB of their own: twice of this is still too little by far. Between that and
# what training takes a pod does not die but crawls, as its libraries are read from disk again and again.
TOO_LITTLE_MEMORY = "30Mi"


@pytest.fixture
def occupy(core: client.CoreV1Api, platform: dict) -> Iterator[Callable[[str], None]]:
    """Takes every GPU of a pool, until the test ends."""
    namespace = platform["training"]["namespace"]
    with making_jobs(core, platform) as make:

        def _occupy(pool: str) -> None:
            placement = platform["pools"][pool]
            gpus = placement["maxNodes"] * placement["gpusPerNode"]
            name = make(f"e2e-policy-{pool}", pool, nodes=gpus)
            wait_until("all GPUs to be held", lambda: running(core, namespace, name) == gpus, seconds=180)

        yield _occupy


def test_memory_that_runs_out_is_doubled_once_and_then_fails_for_good(
    trigger, finish, recorder: PodRecorder, airflow
) -> None:
    run_id = trigger("oom", epochs=2, memory=TOO_LITTLE_MEMORY)
    run = finish(run_id)
    assert (run.state, run.tasks["train"]["state"]) == ("failed", "failed")
    assert run.tasks["train"]["try_number"] == 1, "another try would end the same way"
    pods = recorder.of_task(run_id, "train")
    assert [limits_of(pod)["memory"] for pod in pods] == [TOO_LITTLE_MEMORY, "60Mi"]
    assert [_terminated(pod)["reason"] for pod in pods] == ["OOMKilled"] * 2
    failure = airflow.xcom(DAG, run_id, "train", "failure")
    assert (failure["cause"], failure["attempts"]) == ("oom", 2)
    assert failure["pod"] == pods[1]["metadata"]["name"] and failure["node"]
    assert "2 times the memory did not suffice" in failure["message"]


def test_a_task_says_within_seconds_why_it_waits_and_goes_on_without_a_gpu(
    occupy,
    trigger,
    finish,
    recorder: PodRecorder,
    airflow,
    core: client.CoreV1Api,
    mlflow,
    versions,
    platform: dict,
) -> None:
    occupy("ondemand")
    run_id = trigger("no-gpu", epochs=2, fallback_after_seconds=30)

    def waiting_job() -> Any:
        return job_of(core, platform["training"]["namespace"], run_id)

    job = wait_until("the Job of the training", waiting_job, seconds=240)
    queued = "0 of 1 GPUs free in pool ondemand; position 1 of 1 ("

    def told() -> Any:
        pending = airflow.xcom(DAG, run_id, "train", "pending")
        return pending if pending and pending["reason"].startswith(queued) else None

    pending = wait_until("its place in the queue", told, seconds=60)
    assert pending["kind"] == "queue" and pending["resolved"] is False
    assert pending["pod"] == job.metadata.name, "there is no pod yet"
    links = airflow.get(f"/api/v2/dags/{DAG}/dagRuns/{run_id}/taskInstances/train/links")["extra_links"]
    assert links["Why pending"].endswith(f"/dags/{DAG}/runs/{run_id}/tasks/train/xcom")

    run = finish(run_id)
    assert run.state == "success"
    assert run.tasks["train"]["try_number"] == 1
    (cpu_pod,) = recorder.of_task(run_id, "train")
    assert GPU not in limits_of(cpu_pod)
    assert "trainyard.dev/pool" not in core.read_node(node_of(cpu_pod)).metadata.labels
    fallback = airflow.xcom(DAG, run_id, "train", "fallback")
    assert (fallback["to"], fallback["pool"]) == ("cpu", "ondemand")
    assert fallback["waited_seconds"] >= 30
    assert airflow.xcom(DAG, run_id, "train", "pending")["resolved"] is True
    (version,) = versions(run_id)
    assert run_tags(mlflow, version.run_id)["trainyard.fallback"] == "cpu"


@pytest.mark.nightly
def test_a_run_that_is_reclaimed_twice_goes_on_in_the_other_pool(
    trigger, finish, versions, recorder: PodRecorder, core: client.CoreV1Api, mlflow, platform
) -> None:
    run_id = trigger("reclaimed", pool="spot", epochs=EPOCHS, epoch_seconds=1)
    checkpoint_freq = platform["training"]["checkpointFreq"]
    done = 0
    for attempt in (1, 2):
        pod = wait_until(
            f"attempt {attempt} to run",
            lambda attempt=attempt: _running(recorder, run_id, attempt),
            seconds=240,
        )
        wait_until("it to get on", lambda pod=pod: epochs_done(core, pod) > checkpoint_freq, seconds=120)
        done += epochs_done(core, pod)
        # As a spot node does which is taken away: SIGTERM, and a little time for a checkpoint.
        core.delete_namespaced_pod(
            pod["metadata"]["name"], pod["metadata"]["namespace"], grace_period_seconds=20
        )
    run = finish(run_id)

    assert run.state == "success"
    assert run.tasks["train"]["try_number"] == 1, "a reclaimed node must not use up a try"
    attempts = recorder.of_task(run_id, "train")
    pools = [pod["metadata"]["labels"]["trainyard.dev/gpu-pool"] for pod in attempts]
    assert pools == ["spot", "spot", "ondemand"]
    assert [_terminated(pod)["exitCode"] for pod in attempts] == [143, 143, 0]
    (version,) = versions(run_id)
    history = metric_steps(mlflow, version.run_id, "val_f1_macro")
    assert history == list(range(1, EPOCHS + 1)), "metric steps without gap or duplicate"
    resumed_from = int(run_tags(mlflow, version.run_id)["trainyard.resumed_from_epoch"])
    assert resumed_from >= done - checkpoint_freq, "more than one checkpoint interval of work is lost"


def _running(recorder: PodRecorder, run_id: str, attempt: int) -> Pod | None:
    pods = recorder.running(run_id)
    numbered = (pod for pod in pods if pod["metadata"]["labels"]["trainyard.dev/attempt"] == str(attempt))
    return next(numbered, None)


def _terminated(pod: Pod) -> dict[str, Any]:
    return pod["status"]["containerStatuses"][0]["state"]["terminated"]
