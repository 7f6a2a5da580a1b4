"""The main job: digits_training from raw data to a registered, promoted model, on the cluster."""

from __future__ import annotations

import re

from conftest import DAG, Run, run_tags, wait_for_log
from pods import PodRecorder, limits_of, node_of, wait_until

GPU = "nvidia.com/gpu"
TRAINING_TASKS = ("validate", "preprocess", "train", "evaluate", "clean_up")
CONTROL_TASKS = ("gate", "promote", "notify")


def test_the_first_run_registers_and_promotes_one_model(first_run: Run, versions, model_name) -> None:
    assert first_run.state == "success", first_run.tasks
    assert set(first_run.tasks) == {*TRAINING_TASKS, *CONTROL_TASKS}
    (version,) = versions(first_run.run_id)
    assert version.name == model_name
    assert version.aliases == ("champion",)
    assert version.metrics["f1_macro"] >= 0.90


def test_the_model_tells_what_it_was_trained_on_and_by(
    first_run: Run, versions, mlflow, recorder: PodRecorder
) -> None:
    (version,) = versions(first_run.run_id)
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", version.tags["trainyard.git_commit"])
    assert run_tags(mlflow, version.run_id)["trainyard.git_commit"] == version.tags["trainyard.git_commit"]
    assert re.fullmatch(r"[0-9a-f]{12}", version.tags["trainyard.data_version"])
    (pod,) = recorder.of_task(first_run.run_id, "train")
    assert version.tags["trainyard.image"] == pod["status"]["containerStatuses"][0]["imageID"] != ""
    assert version.tags["trainyard.dag_version"] == first_run.tasks["train"]["dag_version"]["id"]


def test_train_ran_on_the_gpu_node_and_the_other_steps_did_not(
    first_run: Run, recorder: PodRecorder, core
) -> None:
    for task in TRAINING_TASKS:
        (pod,) = recorder.of_task(first_run.run_id, task)
        labels = core.read_node(node_of(pod)).metadata.labels
        if task == "train":
            assert labels["trainyard.dev/pool"] == "ondemand"
            assert limits_of(pod)[GPU] == "1"
        else:
            assert "trainyard.dev/pool" not in labels
            assert GPU not in limits_of(pod)


def test_a_training_task_is_one_pod_and_needs_no_worker(first_run: Run, recorder: PodRecorder) -> None:
    for task in TRAINING_TASKS:
        (pod,) = recorder.of_task(first_run.run_id, task)
        assert pod["metadata"]["namespace"] == "ml-training"


def test_a_control_task_needs_no_pod_at_all(first_run: Run, recorder: PodRecorder) -> None:
    for task in CONTROL_TASKS:
        assert first_run.tasks[task]["state"] == "success"
        assert recorder.of_task(first_run.run_id, task) == []


def test_task_pods_hold_no_token_and_no_secret_but_their_login(first_run: Run, recorder: PodRecorder) -> None:
    for task in TRAINING_TASKS:
        (pod,) = recorder.of_task(first_run.run_id, task)
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        secrets = [v for v in spec.get("volumes", []) if "secret" in v or "projected" in v]
        assert [v["secret"]["secretName"] for v in secrets] == ["trainyard-mlflow-login-trainer"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            assert not container.get("envFrom")
            assert not [e for e in container.get("env", []) if "secretKeyRef" in e.get("valueFrom", {})], (
                f"{task} reads a Secret"
            )


def test_task_logs_are_readable_after_the_pods_are_gone(
    first_run: Run, recorder: PodRecorder, airflow
) -> None:
    for task in (*TRAINING_TASKS, *CONTROL_TASKS):
        if task in TRAINING_TASKS:
            (pod,) = recorder.of_task(first_run.run_id, task)
            wait_until(f"the pod of {task} to go", lambda pod=pod: recorder.is_gone(pod))
        words = {"train": ["val_f1_macro"], "gate": ["it is the first champion"]}.get(task, [])
        number = first_run.tasks[task]["try_number"]
        wait_for_log(airflow, DAG, first_run.run_id, task, *words, try_number=number)


def test_a_second_run_that_is_no_better_is_not_promoted(
    first_run: Run, trigger, finish, versions, model_name
) -> None:
    second = finish(trigger("second", model_name=model_name))
    assert second.state == "success"
    (challenger,) = versions(second.run_id)
    (champion,) = versions(first_run.run_id)
    assert challenger.aliases == ("challenger",)
    assert champion.aliases == ("champion",)
    # The same data: the champion scores what it did then. The repeated training is compared with that.
    tags = challenger.tags
    assert tags["trainyard.reason"].endswith(f"; v{champion.version} was measured on the same data")
    assert tags["trainyard.champion_version"] == champion.version
    assert challenger.metrics["champion_f1_macro"] == champion.metrics["f1_macro"]
    assert "champion_f1_macro" not in champion.metrics
