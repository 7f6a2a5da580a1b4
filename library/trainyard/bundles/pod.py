"""Mounts in each worker pod the DAG image that its run started with."""

from __future__ import annotations

from functools import cache
from typing import Any

from trainyard.airflow_compat import bundle_of_worker_pod

NAME = "dags"
"""Of the volume with the DAG files, and of the init container that fills it."""


def mount_dags_of_run(pod: Any) -> None:
    """Set the DAG image of a worker pod to the version that its run has.

    The pod template names the newest image. That is right for runs without a version, and for other bundles
    than `ImageDagBundle` it does not matter.
    """
    name, version = bundle_of_worker_pod(pod) or (None, None)
    if not name or not version or not _comes_from_an_image(name):
        return
    for volume in pod.spec.volumes or []:
        if volume.name == NAME and volume.image:
            volume.image.reference = version
    for container in pod.spec.init_containers or []:
        if container.name == NAME:
            container.image = version
    from trainyard.bundles.image import IMAGE_VARIABLE

    for container in pod.spec.containers:
        for variable in container.env or []:
            if variable.name == IMAGE_VARIABLE:
                variable.value = version


@cache
def _comes_from_an_image(bundle: str) -> bool:
    """Whether a bundle of the configuration, which no process sees change, is an `ImageDagBundle`."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    from trainyard.bundles.image import ImageDagBundle

    try:
        return isinstance(DagBundlesManager().get_bundle(bundle), ImageDagBundle)
    except ValueError:  # not configured any more: the task itself says so
        return False
