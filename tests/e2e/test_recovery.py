"""Training survives what happens to its pod and to the components around it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import DAG, NAMESPACE, give_up, metric_steps, run_tags
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from pods import PodRecorder, component_of, epochs_done, has_gpus, node_of, wait_until
from urllib3.exceptions import HTTPError

pytestmark = pytest.mark.alone

CONTROL_PLANE = "trainyard-control-plane"
OUTAGE_SECONDS = 120  # longer than the training takes
HANG_SECONDS = 40  # two calls of the client
EPOCHS = 14
SLOW = {"epochs": EPOCHS, "epoch_seconds": 1}


def test_a_killed_train_pod_resumes_from_its_checkpoint(
    trigger, finish, versions, recorder: PodRecorder, core: client.CoreV1Api, mlflow, platform
) -> None:
    run_id = trigger("killed", **SLOW)
    pod = recorder.wait_for_running(run_id)
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


@pytest.mark.nightly
def test_a_run_whose_node_is_lost_goes_on_on_another(
    trigger, finish, versions, recorder: PodRecorder, core: client.CoreV1Api, mlflow, docker
) -> None:
    run_id = trigger("lost", epochs=EPOCHS, epoch_seconds=2)
    pod = recorder.wait_for_running(run_id)
    node = node_of(pod)
    wait_until("some epochs", lambda: epochs_done(core, pod) > EPOCHS / 3, seconds=120)
    subprocess.run([docker, "kill", node], check=True, capture_output=True)
    try:
        # Without the pod's toleration Kubernetes itself would wait for 300 s before it deletes the pod.
        second = wait_until("another pod to run", lambda: recorder.running(run_id)[1:], seconds=240)
        assert node_of(second[0]) != node
        run = finish(run_id)
    finally:
        subprocess.run([docker, "start", node], check=True, capture_output=True)
        wait_until("the node to have GPUs again", lambda: has_gpus(core, node), seconds=240)

    assert run.state == "success"
    assert run.tasks["train"]["try_number"] == 1, "a lost node must not use up a try"
    (version,) = versions(run_id)
    history = metric_steps(mlflow, version.run_id, "val_f1_macro")
    assert history == list(range(1, EPOCHS + 1)), "metric steps without gap or duplicate"


def test_a_triggerer_restart_reattaches_to_the_same_pod(
    trigger, finish, versions, recorder: PodRecorder, core: client.CoreV1Api
) -> None:
    run_id = trigger("triggerer", **SLOW)
    recorder.wait_for_running(run_id)
    selector = "component=triggerer"
    core.delete_collection_namespaced_pod(NAMESPACE, label_selector=selector, grace_period_seconds=0)
    run = finish(run_id)

    assert run.state == "success"
    assert run.tasks["train"]["try_number"] == 1
    assert len(recorder.of_task(run_id, "train")) == 1
    assert len(versions(run_id)) == 1


@pytest.mark.nightly
def test_training_outlives_an_api_server_that_is_away(
    trigger, finish, versions, recorder: PodRecorder, core: client.CoreV1Api, docker
) -> None:
    run_id = trigger("no-api", epochs=EPOCHS, epoch_seconds=2)
    recorder.wait_for_running(run_id)
    # The kubelet of the control plane ends a static pod whose manifest is gone, and makes it again.
    here, away = "/etc/kubernetes/manifests/kube-apiserver.yaml", "/etc/kubernetes/kube-apiserver.yaml"

    def move(source: str, target: str) -> None:
        subprocess.run([docker, "exec", CONTROL_PLANE, "mv", source, target], check=True, capture_output=True)

    move(here, away)
    try:
        wait_until("the API server to be away", lambda: not _answers(core), seconds=120)
        time.sleep(OUTAGE_SECONDS)
    finally:
        move(away, here)
        wait_until("the API server to be back", lambda: _answers(core), seconds=240)
    run = finish(run_id)

    assert (run.state, run.tasks["train"]["try_number"]) == ("success", 1)
    assert len(recorder.of_task(run_id, "train")) == 1
    assert len(versions(run_id)) == 1


@pytest.mark.nightly
def test_training_does_not_wait_for_an_mlflow_that_hangs(
    trigger, finish, versions, recorder: PodRecorder, core: client.CoreV1Api, mlflow, docker
) -> None:
    epochs = 60
    run_id = trigger("no-mlflow", epochs=epochs, epoch_seconds=1)
    training = recorder.wait_for_running(run_id)
    wait_until("some epochs", lambda: epochs_done(core, training) > 2, seconds=120)
    with _frozen(core, docker, "tracking-server"):
        before = epochs_done(core, training)
        time.sleep(HANG_SECONDS)
        assert epochs_done(core, training) > before + HANG_SECONDS / 2
    run = finish(run_id)

    assert (run.state, run.tasks["train"]["try_number"]) == ("success", 1)
    assert len(recorder.of_task(run_id, "train")) == 1
    (version,) = versions(run_id)
    history = metric_steps(mlflow, version.run_id, "val_f1_macro")
    assert history == list(range(1, epochs + 1)), "metric steps without gap or duplicate"


def test_a_run_that_a_person_ends_takes_its_pod_along_and_ends_as_it_was_told(
    trigger, finish, recorder: PodRecorder, airflow
) -> None:
    run_id = trigger("given-up", **SLOW)
    pod = recorder.wait_for_running(run_id)
    give_up(airflow, DAG, run_id)
    wait_until("the train pod to go", lambda: recorder.is_gone(pod), seconds=120)
    assert len(recorder.of_task(run_id, "train")) == 1
    run = finish(run_id)
    # The clean-up runs after it, and does not make a success of it.
    assert (run.state, run.tasks["clean_up"]["state"]) == ("failed", "success")


@contextmanager
def _frozen(core: client.CoreV1Api, docker: str, component: str) -> Iterator[None]:
    """Freeze the processes of a component's pod: it takes requests and answers none."""
    pod = core.read_namespaced_pod(component_of(core, component, NAMESPACE), NAMESPACE)
    container = pod.status.container_statuses[0].container_id.removeprefix("containerd://")
    tasks = [docker, "exec", pod.spec.node_name, "ctr", "-n", "k8s.io", "tasks"]
    subprocess.run([*tasks, "pause", container], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run([*tasks, "resume", container], check=True, capture_output=True)


def _answers(core: client.CoreV1Api) -> bool:
    try:
        core.list_namespaced_pod(NAMESPACE, limit=1, _request_timeout=5)
    except (ApiException, HTTPError):
        return False
    return True
