"""DAGs from an image: its bundle, and the worker pods that KubernetesExecutor makes of a real workload."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from airflow import settings
from airflow.dag_processing.bundles.base import BundleVersion
from airflow.executors.workloads import BundleInfo, ExecuteTask
from airflow.executors.workloads.task import TaskInstanceDTO
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator, workload_to_command_args
from kubernetes import client
from trainyard.bundles import pod as bundles_pod
from trainyard.bundles.image import IMAGE_VARIABLE, ImageDagBundle

NEWEST, OLD = "registry.example.com/team/dags:2", "registry.example.com/team/dags@sha256:" + "0" * 64
BUNDLE = "dags-folder"


@pytest.fixture
def dags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the image is mounted."""
    monkeypatch.setenv(IMAGE_VARIABLE, NEWEST)
    return tmp_path


def test_the_version_is_the_image(dags: Path) -> None:
    bundle = ImageDagBundle(name=BUNDLE, path=str(dags))
    bundle.initialize()
    assert bundle.get_current_version() == BundleVersion(NEWEST)
    assert bundle.path == dags
    bundle.refresh()


def test_a_task_runs_with_no_other_dags_than_its_runs(dags: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_IS_K8S_EXECUTOR_POD", "True")
    ImageDagBundle(name=BUNDLE, path=str(dags), version=NEWEST).initialize()
    with pytest.raises(RuntimeError, match=f"mounts the DAGs of {NEWEST}, but the run has those of {OLD}"):
        ImageDagBundle(name=BUNDLE, path=str(dags), version=OLD).initialize()


def test_a_callback_of_an_older_run_takes_the_dags_that_there_are(dags: Path) -> None:
    bundle = ImageDagBundle(name=BUNDLE, path=str(dags), version=OLD)
    bundle.initialize()
    assert bundle.path == dags


@pytest.mark.parametrize("has", ["image", "files", "nothing"])
def test_other_pods_say_where_the_dags_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: str) -> None:
    monkeypatch.delenv(IMAGE_VARIABLE, raising=False)
    if has == "image":
        monkeypatch.setenv(IMAGE_VARIABLE, NEWEST)
    path = tmp_path if has == "files" else tmp_path / "missing"
    with pytest.raises(RuntimeError, match="Run commands that read DAG files in the dag-processor's pod"):
        ImageDagBundle(name=BUNDLE, path=str(path)).initialize()


# ---- worker pods


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two bundles, of which one comes from an image."""
    git = {"published": str(tmp_path)}
    bundles = [
        {"name": BUNDLE, "classpath": "trainyard.bundles.image.ImageDagBundle", "kwargs": {"path": "/d"}},
        {"name": "team", "classpath": "trainyard.bundles.git.PublishedGitBundle", "kwargs": git},
    ]
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(bundles))
    bundles_pod._comes_from_an_image.cache_clear()


@pytest.fixture
def worker(configured: None) -> Callable[..., client.V1Pod]:
    """The pod of a task, from the chart's pod template as far as it matters, by Airflow's own code."""

    def _worker(bundle: str, version: str | None, *, init_container: bool = False) -> client.V1Pod:
        volume: dict[str, Any] = {"name": "dags", "emptyDir": {}}
        if not init_container:
            volume = {"name": "dags", "image": {"reference": NEWEST, "pullPolicy": "IfNotPresent"}}
        template = {
            "metadata": {"name": "placeholder-name"},
            "spec": {
                "initContainers": [
                    {"name": "dags", "image": NEWEST if init_container else "other"},
                    {"name": "mine", "image": NEWEST},
                ][0 if init_container else 1 :],
                "containers": [
                    {"name": "base", "image": "airflow", "env": [{"name": IMAGE_VARIABLE, "value": NEWEST}]}
                ],
                "volumes": [volume, {"name": "tmp", "emptyDir": {}}],
            },
        }
        api = client.ApiClient()
        task = TaskInstanceDTO(
            id=uuid4(),
            dag_version_id=uuid4(),
            task_id="say",
            dag_id="team",
            run_id="r",
            try_number=1,
            map_index=-1,
            pool_slots=1,
            queue="default",
            priority_weight=1,
        )
        workload = ExecuteTask(
            ti=task,
            dag_rel_path="team.py",
            token="t",
            log_path=None,
            bundle_info=BundleInfo(name=bundle, version=version),
        )
        return PodGenerator.construct_pod(
            dag_id="team",
            task_id="say",
            pod_id="team-say",
            try_number=1,
            kube_image="",
            date=None,
            args=workload_to_command_args(workload),
            pod_override_object=None,
            base_worker_pod=api._ApiClient__deserialize_model(template, client.V1Pod),
            namespace="n",
            scheduler_job_id="1",
            with_mutation_hook=True,
        )

    return _worker


def images(pod: client.V1Pod) -> tuple[str | None, list[str], str]:
    """The images of the DAG volume and of the init containers, and what the task is told."""
    (volume,) = [one for one in pod.spec.volumes if one.name == "dags"]
    (told,) = [one.value for one in pod.spec.containers[0].env if one.name == IMAGE_VARIABLE]
    inits = [one.image for one in pod.spec.init_containers or []]
    return volume.image and volume.image.reference, inits, told


def test_a_worker_pod_mounts_the_image_of_its_run(worker: Callable[..., client.V1Pod]) -> None:
    assert images(worker(BUNDLE, OLD)) == (OLD, [NEWEST], OLD)
    assert images(worker(BUNDLE, OLD, init_container=True)) == (None, [OLD, NEWEST], OLD)


@pytest.mark.parametrize(
    ("bundle", "version"), [(BUNDLE, None), ("team", "0" * 40), ("of a removed bundle", OLD)]
)
def test_other_worker_pods_keep_the_newest_image(
    worker: Callable[..., client.V1Pod], bundle: str, version: str | None
) -> None:
    assert images(worker(bundle, version)) == (NEWEST, [NEWEST], NEWEST)


def test_pods_of_operators_stay_as_they_are(configured: None) -> None:
    container = client.V1Container(name="base", image="mine", args=["--json-string"])
    volume = client.V1Volume(name="dags", image=client.V1ImageVolumeSource(reference="mine"))
    pod = client.V1Pod(spec=client.V1PodSpec(containers=[container], volumes=[volume]))
    settings.pod_mutation_hook(pod)
    assert pod.spec.volumes[0].image.reference == "mine"
