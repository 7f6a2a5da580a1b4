"""A release with queues, on a cluster that gets Kueue for it, and Jobs that wait in them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from conftest import NAMESPACE, released_with
from kubernetes import client
from pods import gpu_sleeper, if_there, sync_mounts, wait_until
from trainyard_cli import cluster, kueue, kueue_build, paths, toolchain
from trainyard_cli.airflow_api import Airflow

QUEUE = "kueue.x-k8s.io/queue-name"
QUIET: Any = SimpleNamespace(update=lambda text: None)


@contextmanager
def queued_release(
    values: dict[str, Any], airflow: Airflow, core: client.CoreV1Api, directory: Path
) -> Iterator[dict[str, Any]]:
    """The release with queues and further values, as its platform file tells; afterwards Kueue is gone."""
    platform: dict[str, Any] = {}
    try:
        with released_with({"queues": {"kueue": {"enabled": True}}, **values}, airflow, directory):
            sync_mounts(core, "triggerer", NAMESPACE)
            told = core.read_namespaced_config_map("trainyard-platform", NAMESPACE).data["platform.json"]
            platform |= json.loads(told)
            yield platform
    finally:
        for team in platform.get("teams", {}).values():
            _delete_namespace(core, team["namespace"])
        # Nothing of the release needs it any more. It takes the finalizers off what is left, so it goes last.
        kubectl = cluster.Cluster(cluster.NAME, paths.KUBECONFIG).kubectl(toolchain.ensure(QUIET))
        for what in (kueue_build.definitions(QUIET), kueue.MANIFESTS):
            subprocess.run([*kubectl, "delete", "--ignore-not-found", "-f", what], check=True, timeout=300)


def _delete_namespace(core: client.CoreV1Api, namespace: str) -> None:
    """Delete a namespace that a release leaves, as it has data, and the data's volumes."""
    if_there(core.delete_namespace, namespace)
    field = f"metadata.name={namespace}"
    wait_until(f"namespace {namespace} to go", lambda: not core.list_namespace(field_selector=field).items)
    for volume in core.list_persistent_volume().items:
        if volume.spec.claim_ref and volume.spec.claim_ref.namespace == namespace:
            core.delete_persistent_volume(volume.metadata.name)


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
def jobs(core: client.CoreV1Api, namespace: str) -> Iterator[list[str]]:
    """A list for the names of Jobs, which are deleted at the end, and their pods with them."""
    batch = client.BatchV1Api(core.api_client)
    made: list[str] = []
    yield made
    for name in made:
        if_there(batch.delete_namespaced_job, name, namespace, propagation_policy="Foreground")
    for name in made:
        field = f"metadata.name={name}"
        wait_until(
            f"Job {name} to go",
            lambda field=field: not batch.list_namespaced_job(namespace, field_selector=field).items,
        )


def pods_of(core: client.CoreV1Api, namespace: str, job: str) -> list[Any]:
    """A Job's pods."""
    selector = f"batch.kubernetes.io/job-name={job}"
    return core.list_namespaced_pod(namespace, label_selector=selector).items


def running(core: client.CoreV1Api, namespace: str, job: str) -> int:
    """How many of a Job's pods run."""
    return sum(pod.status.phase == "Running" for pod in pods_of(core, namespace, job))
