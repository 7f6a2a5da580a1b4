"""What all attempts of one try share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainyard.kube.jobs import JobKube
from trainyard.naming import TaskIdentity
from trainyard.platform import Platform
from trainyard.training.attempt import RetryPlan
from trainyard.training.pod import TrainingRequest

Log = Any  # a standard logger, or Airflow's with the same methods
Announce = Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Shared:
    """What all attempts of a try share.

    Args:
        kube: client of the namespace in which the task's DAG trains.
        platform: where pods may run, as the task's DAG sees it (`Platform.for_dag`).
        request: what to run.
        task: the try of the task; the names and labels of Jobs and pods follow from it.
        log: receives the log of the pod, or of rank 0, why it waits and how it ended.
        plan: which attempts may follow after a failure or for want of a GPU.
        queue_seconds: how long it may wait for a GPU, and for the namespace's quota.
        startup_seconds: how long the pods may take to start, from when they need to wait for neither.
        announce: called with XComs: why it waits, where it runs, that it fell back to a CPU.
    """

    kube: JobKube
    platform: Platform
    request: TrainingRequest
    task: TaskIdentity
    log: Log
    plan: RetryPlan
    queue_seconds: int
    startup_seconds: int
    announce: Announce
