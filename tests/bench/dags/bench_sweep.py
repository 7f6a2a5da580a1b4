"""The same nine trainings by Trainyard's operator and by the stock deferrable one.

bench/sweep_makespan.py puts this file into the image's DAGs for as long as it runs: no part of the product.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG, Param
from kubernetes.client import models as k8s
from trainyard.naming import TaskIdentity
from trainyard.platform import load_platform
from trainyard.training.operator import TrainingPodOperator
from trainyard.training.pod import TrainingRequest, build_pod

TRIALS = range(9)
POOL = "ondemand"
PLATFORM = load_platform()
# The run's parameter, and to be seen as a URI before it is rendered.
DATASET = "file://{{ params.dataset.removeprefix('file://') }}"
COMMON: dict[str, Any] = {
    "schedule": None,
    "start_date": datetime(2026, 1, 1),
    "params": {"dataset": Param("", type="string", description="what the trials train on")},
    "tags": ["bench"],
    "default_args": {"owner": "bench", "retries": 0},
}
# Worker pods hold no token; those of the stock operator need one to make pods.
WITH_TOKEN = {
    "pod_override": k8s.V1Pod(
        spec=k8s.V1PodSpec(
            service_account_name="bench-stock",
            automount_service_account_token=True,
            containers=[k8s.V1Container(name="base")],
        )
    )
}


def step_params(trial: int) -> dict[str, Any]:
    """The parameters of a trial: each trains the same network from another seed."""
    return {"model": "digits", "epochs": 10, "seed": trial}


def trial_pod(trial: int, run: str, dataset: str) -> dict[str, Any]:
    """The pod which TrainingPodOperator would make for the trial, under a run key of its own."""
    key = f"bench-{run}-{trial}"
    identity = TaskIdentity("bench", "run", "train", trial, 1)
    request = TrainingRequest(
        step="train",
        dataset=dataset,
        output_uri=f"file:///checkpoints/bench/{key}",
        deadline_seconds=600,
        step_params=step_params(trial),
        gpu_pool=POOL,
    )
    pod = build_pod(PLATFORM, request, identity)
    pod["metadata"] = {"labels": {"trainyard.dev/bench": "sweep"}}
    (container,) = pod["spec"]["containers"]
    container["args"][container["args"].index("--run-key") + 1] = key
    for variable in container["env"]:
        if variable["name"] == "CHECKPOINT_DIR":
            variable["value"] = f"{PLATFORM.training.checkpoints.mount_path}/bench/{key}"
    return pod


with DAG("bench_trainyard", **COMMON):
    TrainingPodOperator.partial(
        task_id="train",
        step="train",
        dataset=DATASET,
        output_uri="file:///checkpoints/bench/{{ run_id }}-{{ ti.map_index }}",
        gpu_pool=POOL,
        deadline=timedelta(minutes=10),
    ).expand(step_params=[step_params(trial) for trial in TRIALS])

with DAG("bench_stock", **COMMON):
    KubernetesPodOperator.partial(
        task_id="train",
        namespace=PLATFORM.training.namespace,
        deferrable=True,
        get_logs=True,
        on_finish_action="delete_pod",
        executor_config=WITH_TOKEN,
        # The triggerer finds no connection, and a pod over the GPU quota would fail the task.
        in_cluster=True,
        pool=PLATFORM.pool(POOL).airflow_pool,
        startup_timeout_seconds=600,
    ).expand(pod_template_dict=[trial_pod(trial, "{{ run_id }}", DATASET) for trial in TRIALS])
