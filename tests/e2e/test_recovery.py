"""Training survives what happens to its pod and to the components around it."""

from __future__ import annotations

import pytest
from conftest import DAG, NAMESPACE, give_up, metric_steps, run_tags
from kubernetes import client
from pods import PodRecorder, epochs_done, wait_until

pytestmark = pytest.mark.alone

EPOCHS = 14
SLOW = {"epochs": EPOCHS, "epoch_seconds": 1}


def test_a_killed_train_pod_resumes_from_its_checkpoint(
    trigger, finish, versions, recorder: PodRecorder, core: client.CoreV1Api, mlflow, platform
) -> None:
    run_id = trigger("killed", **SLOW)
    pod = _running_train_pod(recorder, run_id)
    checkpoint_freq = platform["training"]["checkpointFreq"]
    wait_until(
        "two checkpoints to be written",
        lambda: epochs_done(core, pod) > 2 * checkpoint_freq,
        seconds=120,
    )
    # SIGKILL: no time for a last checkpoint, as when a node is lost.
    core.delete_namespaced_pod(pod["metadata"]["name"], pod["metadata"]["namespace"], grace_period_seconds=0)
    run = finish(run_id)

    assert run.state == "success"
    assert run.tasks["train"]["try_number"] == 1, "a lost pod must not use up a try"
    attempts = recorder.of_task(run_id, "train")
    assert len(attempts) == 2
    (version,) = versions(run_id)
    history = metric_steps(mlflow, version.run_id, "val_f1_macro")
    assert history == list(range(1, EPOCHS + 1)), "metric steps without gap or duplicate"
    resumed_from = int(run_tags(mlflow, version.run_id)["trainyard.resumed_from_epoch"])
    assert 2 * checkpoint_freq <= resumed_from < EPOCHS


def test_a_triggerer_restart_reattaches_to_the_same_pod(
    trigger, finish, versions, recorder: PodRecorder, core: client.CoreV1Api
) -> None:
    run_id = trigger("triggerer", **SLOW)
    _running_train_pod(recorder, run_id)
    selector = "component=triggerer"
    core.delete_collection_namespaced_pod(NAMESPACE, label_selector=selector, grace_period_seconds=0)
    run = finish(run_id)

    assert run.state == "success"
    assert run.tasks["train"]["try_number"] == 1
    assert len(recorder.of_task(run_id, "train")) == 1
    assert len(versions(run_id)) == 1


def test_a_run_that_a_person_ends_takes_its_pod_along(trigger, recorder: PodRecorder, airflow) -> None:
    run_id = trigger("given-up", **SLOW)
    pod = _running_train_pod(recorder, run_id)
    give_up(airflow, DAG, run_id)
    wait_until("the train pod to go", lambda: recorder.is_gone(pod), seconds=120)
    assert len(recorder.of_task(run_id, "train")) == 1


def _running_train_pod(recorder: PodRecorder, run_id: str) -> dict:
    def running() -> dict | None:
        pods = recorder.of_task(run_id, "train")
        return next((pod for pod in pods if pod["status"].get("phase") == "Running"), None)

    return wait_until(f"the train pod of {run_id} to run", running, seconds=180)
