"""Training on several nodes: what one node would train, and all pods or none."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import DAG, metric_steps, run_tags
from kubernetes import client
from pods import Pod, PodRecorder, has_gpus, node_of, ran_between, wait_until
from queues import check_resumed, job_of, outcome_of, rank, with_a_checkpoint
from trainyard.failures import Cause
from trainyard.naming import TaskIdentity
from trainyard_contract import ExitCode

pytestmark = pytest.mark.alone

EPOCHS = 14
# Without dropout, which every process draws for itself, only rounding depends on the number of nodes.
SAME = {"epochs": 6, "dropout": 0, "seed": 7}


@pytest.mark.nightly
def test_two_nodes_train_what_one_does(trigger, finish, recorder: PodRecorder, airflow, mlflow) -> None:
    two, one = trigger("two-nodes", nodes=2, **SAME), trigger("one-node", **SAME)
    for run_id in (two, one):
        assert finish(run_id).tasks["train"]["state"] == "success"
    pods = recorder.of_task(two, "train")
    assert sorted(rank(pod) for pod in pods) == [0, 1]
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
    _, other = with_a_checkpoint(core, recorder, run_id, platform)
    name, namespace = other["metadata"]["name"], other["metadata"]["namespace"]
    core.delete_namespaced_pod(name, namespace, grace_period_seconds=0)
    run = finish(run_id)

    assert run.tasks["train"]["state"] == "success"
    mlflow_run = airflow.xcom(DAG, run_id, "train", "return_value")["mlflow_run_id"]
    check_resumed(run, mlflow_run, recorder, mlflow, platform, EPOCHS)


@pytest.mark.nightly
def test_a_node_that_says_nothing_more_is_noticed_in_seconds(
    trigger, finish, recorder: PodRecorder, core: client.CoreV1Api, airflow, mlflow, platform, docker: str
) -> None:
    """Without keep-alive, rank 0 would wait for five minutes."""
    run_id = trigger("gang-cut-off", nodes=2, epochs=EPOCHS, epoch_seconds=2)
    leader, other = with_a_checkpoint(core, recorder, run_id, platform)
    with cut_off(docker, core, node_of(other)):
        ended = wait_until("rank 0 to end", lambda: _ended(recorder, leader), seconds=90)
    assert ended["exitCode"] == ExitCode.PREEMPTED
    run = finish(run_id)

    assert run.tasks["train"]["state"] == "success"
    mlflow_run = airflow.xcom(DAG, run_id, "train", "return_value")["mlflow_run_id"]
    check_resumed(run, mlflow_run, recorder, mlflow, platform, EPOCHS)


@contextmanager
def cut_off(docker: str, core: client.CoreV1Api, node: str) -> Iterator[None]:
    """A node from and to which no packet gets through."""

    def filter_all(verb: str, *, check: bool) -> None:
        for chain in ("PREROUTING", "OUTPUT"):
            rule = [verb, chain, "--jump", "DROP"]
            command = [docker, "exec", node, "iptables", "--wait", "--table", "raw", *rule]
            subprocess.run(command, check=check, capture_output=True)

    try:
        filter_all("--insert", check=True)
        yield
    finally:
        filter_all("--delete", check=False)
        wait_until("the node to have GPUs again", lambda: has_gpus(core, node), seconds=240)


def _ended(recorder: PodRecorder, pod: Pod) -> dict | None:
    """How the container of a pod ended, once it has."""
    own = recorder.pods[pod["metadata"]["uid"]]
    return own["status"]["containerStatuses"][0]["state"].get("terminated")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "metric", "small"),
    [
        ("residual", "f1_macro", {"width": 8, "layers": 1}),
        ("characters", "accuracy", {"width": 16, "layers": 1, "heads": 2}),
    ],
)
def test_deep_networks_train_on_two_nodes_and_go_on(
    trigger,
    finish,
    recorder: PodRecorder,
    core: client.CoreV1Api,
    airflow,
    mlflow,
    platform,
    *,
    name: str,
    metric: str,
    small: dict,
) -> None:
    """One with batch normalization, and a transformer; a lost pod stands for a spot node."""
    dag = f"{name}_training"
    conf = {"nodes": 2, "pool": "ondemand", "epochs": EPOCHS, "epoch_seconds": 1, "minimum": 0, **small}
    run_id = trigger(f"{name}-killed", dag=dag, **conf)
    _, other = with_a_checkpoint(core, recorder, run_id, platform)
    metadata = other["metadata"]
    core.delete_namespaced_pod(metadata["name"], metadata["namespace"], grace_period_seconds=0)
    run = finish(run_id, dag=dag)
    mlflow_run = airflow.xcom(dag, run_id, "train", "return_value")["mlflow_run_id"]
    check_resumed(run, mlflow_run, recorder, mlflow, platform, EPOCHS, metric)


def test_a_gang_that_its_pool_never_holds_fails_at_once_and_stops_nobody(
    core: client.CoreV1Api, platform: dict, tmp_path
) -> None:
    pool = platform["pools"]["ondemand"]
    has = pool["maxNodes"] * pool["gpusPerNode"]
    task = TaskIdentity("e2e", f"too-large-{tmp_path.name}", "train", -1, 1)
    outcome = outcome_of(platform, task, nodes=has + 1)
    assert outcome.cause is Cause.BAD_CONFIG
    assert f"it asks for {has + 1} GPUs of pool ondemand, which has {has}" in outcome.message
    assert job_of(core, platform["training"]["namespace"], task.run_id) is None, "it is in no queue"
