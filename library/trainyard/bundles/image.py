"""`ImageDagBundle`: the DAG files of an image that only the dag-processor and the worker pods mount.

The version is the image's reference. Airflow stores it with each run, and `bundles.pod` mounts that very
image in the run's worker pods: a run keeps the DAGs that it started with.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.base import BaseDagBundle, BundleVersion

from trainyard.airflow_compat import in_worker_pod

IMAGE_VARIABLE = "TRAINYARD_DAGS_IMAGE"
"""The environment variable that says which image a pod mounts."""


class ImageDagBundle(BaseDagBundle):
    """The DAG files of the image that this pod mounts.

    Args:
        path: the DAG folder in this pod.
    """

    supports_versioning = True

    def __init__(self, *, path: str, **options: Any) -> None:
        super().__init__(**options)
        self._path = Path(path)

    def initialize(self) -> None:
        """Check that the DAG files are here, and for a task that they are those of its run.

        Raises:
            RuntimeError: they are not.
        """
        mounted = os.environ.get(IMAGE_VARIABLE)
        if not mounted or not self._path.is_dir():
            raise RuntimeError(
                f"{self._path} does not hold the DAGs of bundle {self.name}: only the dag-processor and "
                "worker pods mount them. Run commands that read DAG files in the dag-processor's pod."
            )
        # A callback of an older run runs with the DAGs that the dag-processor has; a task must not.
        if self.version and self.version != mounted and in_worker_pod():
            raise RuntimeError(
                f"this pod mounts the DAGs of {mounted}, but the run has those of {self.version}: the policy "
                "of the trainyard library has not changed the pod. Look for Trainyard in the scheduler's log."
            )
        super().initialize()

    @property
    def path(self) -> Path:
        """The DAG folder."""
        return self._path

    def get_current_version(self) -> BundleVersion | None:
        """The image that this pod mounts; None in pods that mount none."""
        mounted = os.environ.get(IMAGE_VARIABLE)
        return BundleVersion(mounted) if mounted else None

    def refresh(self) -> None:
        """Do nothing: another image is another pod."""
