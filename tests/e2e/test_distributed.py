"""Training on several nodes: what one node would train, and all pods or none."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from conftest import DAG, Run, metric_steps, run_tags
from kubernetes import client
from pods import Pod, PodRecorder, epochs_done, node_of, ran_between, wait_until
from trainyard.failures import Cause
from trainyard.kube.jobs import JobKube
from trainyard.naming import TaskIdentity
from trainyard.platform import load_platform
from trainyard.training.attempt import RetryPlan
from trainyard.training.job_run import JobRun
from trainyard.training.leftovers import delete_leftovers
from trainyard.training.outcomes import Outcome
from trainyard.training.pod import TrainingRequest
from trainyard.training.shared import Shared

pytestmark = pytest.mark.alone

EPOCHS = 14
# Without dropout, which every process draws for itself, only rounding depends on the number of nodes.
SAME = {"epochs": 6, "dropout": 0, "seed": 7}
STARTUP_SECONDS = 60


def test_two_nodes_train_what_one_does(trigger, finish, recorder: PodRecorder, airflow, mlflow) -> None:
    two, one = trigger("two-nodes", nodes=2, **SAME), trigger("one-node", **SAME)
    for run_id in (two, one):
        assert finish(run_id).tasks["train"]["state"] == "success"
    pods = recorder.of_task(two, "train")
    assert sorted(_rank(pod) for pod in pods) == [0, 1]
    assert len({node_of(pod) for pod in pods}) == 2
    (first_start, first_end), (second_start, second_end) = (ran_between(pod) for pod in pods)
    assert max(first_start, second_start) < min(first_end, second_end), "they ran at the same time"

    results = {run_id: airflow.xcom(DAG, run_id, "train", "return_value") for run_id in (two, one)}
    for metric in ("train_loss", "val_loss", "score"):
        assert results[two][metric] == pytest.approx(results[one][metric], abs=1e-3)
    tags = {run_id: run_tags(mlflow, result["mlflow_run_id"]) for run_id, result in results.items()}
    assert [tags[run_id]["trainyard.nodes"] for run_id in (two, one)] == ["2", "1"]
    assert metric_steps(mlflow, results[two]["mlflow_run_id"], "val_f1_macro") == list(range(1, 7))


def test_one_lost_pod_ends_both_and_both_go_on(
    trigger, finish, recorder: PodRecorder, core: client.CoreV1Api, airflow, mlflow, platform
) -> None:
    run_id = trigger("gang-killed", nodes=2, epochs=EPOCHS, epoch_seconds=1)

    def both() -> list[Pod] | None:
        running = recorder.running(run_id)
        return sorted(running, key=_rank) if len(running) == 2 else None

    leader, other = wait_until("both pods to run", both, seconds=240)
    checkpoint_freq = platform["training"]["checkpointFreq"]
    wait_until("a checkpoint", lambda: epochs_done(core, leader) > checkpoint_freq, seconds=180)
    name, namespace = other["metadata"]["name"], other["metadata"]["namespace"]
    core.delete_namespaced_pod(name, namespace, grace_period_seconds=0)
    run = finish(run_id)

    assert run.tasks["train"]["state"] == "success"
    assert run.tasks["train"]["try_number"] == 1, "a lost pod must not use up a try"
    pods = recorder.of_task(run_id, "train")
    assert sorted(_rank(pod) for pod in pods) == [0, 0, 1, 1]
    mlflow_run = airflow.xcom(DAG, run_id, "train", "return_value")["mlflow_run_id"]
    assert int(run_tags(mlflow, mlflow_run)["trainyard.resumed_from_epoch"]) >= checkpoint_freq
    assert metric_steps(mlflow, mlflow_run, "val_f1_macro") == list(range(1, EPOCHS + 1))


def test_a_gang_without_room_gives_its_gpus_back_and_says_why_it_never_started(
    first_run: Run, recorder: PodRecorder, core: client.CoreV1Api, airflow, platform: dict, tmp_path: Path
) -> None:
    nodes = len(core.list_node(label_selector="trainyard.dev/pool=ondemand").items)
    task = TaskIdentity("e2e", f"too-large-{tmp_path.name}", "train", -1, 1)
    file = tmp_path / "platform.json"
    file.write_text(json.dumps(platform))
    dataset = airflow.xcom(DAG, first_run.run_id, "preprocess", "dataset")
    outcome = asyncio.run(_run_gang(file, task, dataset, nodes + 1))

    assert outcome.cause is Cause.UNSCHEDULABLE
    assert f"not started within {STARTUP_SECONDS} s" in outcome.message
    assert f"of {nodes + 1} pods have a node" in outcome.message
    pods = recorder.of_task(task.run_id, "train")
    assert len([pod for pod in pods if _rank(pod) == 0]) >= 2, "it was taken down and tried again"
    wait_until("all pods to be gone", lambda: all(map(recorder.is_gone, pods)), seconds=120)


async def _run_gang(platform_file: Path, task: TaskIdentity, dataset: str, nodes: int) -> Outcome:
    platform = load_platform(platform_file)
    request = TrainingRequest(
        step="train",
        dataset=dataset,
        output_uri="file:///checkpoints/none",
        deadline_seconds=600,
        gpu_pool="ondemand",
        nodes=nodes,
        # No run of this is to be seen in MLflow: rank 0 waits for one that does not answer.
        env_vars={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
    )

    async def ignore(*_: Any) -> None: ...

    async with JobKube(platform.training.namespace) as kube:
        shared = Shared(
            kube,
            platform,
            request,
            task,
            logging.getLogger(__name__),
            plan=RetryPlan(),
            queue_seconds=STARTUP_SECONDS,
            startup_seconds=STARTUP_SECONDS,
            announce=ignore,
        )
        outcome = await JobRun(shared, ignore).run()
        await delete_leftovers(kube, task.try_selector())  # as its trigger does
        return outcome


def _rank(pod: Pod) -> int:
    return int(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])
