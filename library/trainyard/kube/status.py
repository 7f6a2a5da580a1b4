"""Helpers that read Kubernetes objects: conditions, container states, the kubelet's reasons, events."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from trainyard.naming import CONTAINER

Pod = Mapping[str, Any]
IMAGE_ERRORS = {"InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
IMAGE_PULL_ERRORS = {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"}
CONTAINER_ERRORS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}


def container_status(pod: Pod, container: str = CONTAINER) -> Mapping[str, Any]:
    """The status of a container of the pod; {} before the kubelet has set it."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((status for status in statuses if status.get("name") == container), {})


def condition(obj: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The condition of type `kind` of a pod, Job, Deployment, ...; {} if it has none."""
    conditions = obj.get("status", {}).get("conditions") or []
    return next((condition for condition in conditions if condition.get("type") == kind), {})


def has_owner(obj: Mapping[str, Any], kind: str) -> bool:
    """Whether an object of this kind made it, and will delete it."""
    return any(owner.get("kind") == kind for owner in obj["metadata"].get("ownerReferences") or [])


def scheduled_at(pod: Pod) -> datetime | None:
    """When the pod got its node; None if it has none yet."""
    scheduled = condition(pod, "PodScheduled")
    moment = scheduled.get("lastTransitionTime")
    return datetime.fromisoformat(moment) if moment and scheduled.get("status") == "True" else None


def event_line(event: Mapping[str, Any]) -> str:
    """An event as one line, with how often it occurred."""
    count = (event.get("series") or {}).get("count") or event.get("count") or 1
    times = f" (x{count})" if count > 1 else ""
    return event_text(event) + times


def event_text(event: Mapping[str, Any]) -> str:
    """Reason and message of an event."""
    return f"{event.get('reason', '')}: {event.get('message', '')}"
