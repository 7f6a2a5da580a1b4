"""The workloads of a release: which are not ready, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .errors import CliError
from .kube import Kube, container_statuses, waiting_reason
from .objects import Identity

Json = dict[str, Any]

# Reasons that waiting does not cure, once they have lasted a while: the kubelet retries for ever.
STUCK_REASONS = ("ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff", "InvalidImageName")
STUCK_RESTARTS = 5
KINDS = (("Deployment", "apps"), ("StatefulSet", "apps"), ("DaemonSet", "apps"), ("Job", "batch"))
"""The kinds of workloads that become ready, and their API groups."""
LASTING = tuple(kind for kind, group in KINDS if group == "apps")
"""Those whose pods do not end."""


@dataclass(frozen=True)
class Workload:
    """A workload that is not ready. `why` is one line; `stuck` says that waiting does not help."""

    kind: str
    namespace: str
    name: str
    why: str
    stuck: bool = False

    @property
    def identity(self) -> Identity:
        """Return what names it."""
        return identity(self.kind, self.namespace, self.name)


def identity(kind: str, namespace: str, name: str) -> Identity:
    """Return what names a workload of one of `KINDS`."""
    return Identity(kind, namespace, name, dict(KINDS)[kind])


def list_path(kind: str, namespace: str) -> str:
    """Return the path in the API of a namespace's workloads of one of `KINDS`."""
    return f"/apis/{dict(KINDS)[kind]}/v1/namespaces/{namespace}/{kind.lower()}s"


def path(workload: Identity) -> str:
    """Return the path of a workload in the API."""
    return f"{list_path(workload.kind, workload.namespace)}/{workload.name}"


def unready(kube: Kube, namespaces: Iterable[str]) -> Iterator[Workload]:
    """Yield the workloads of these namespaces that are not ready.

    The Jobs of CronJobs and of training tasks are none of them: they come and go, and may fail.
    """
    for namespace in namespaces:
        pods = kube.items(f"/api/v1/namespaces/{namespace}/pods")
        for kind, _ in KINDS:
            for each in kube.items(list_path(kind, namespace)):
                if not is_ready(kind, each) and not (kind == "Job" and _is_run(each)):
                    yield _explain(kind, each, [pod for pod in pods if _selects(each, pod)])


def failed_run(kube: Kube, namespace: str, cron_job: str) -> Workload | None:
    """Return the newest Job of a CronJob if it failed, None if it did not or there is none."""
    jobs = [
        each
        for each in kube.items(list_path("Job", namespace))
        if any(owner["name"] == cron_job for owner in each["metadata"].get("ownerReferences", []))
    ]
    newest = max(jobs, key=lambda each: str(each["metadata"]["creationTimestamp"]), default=None)
    return _failed(newest) if newest else None


def is_ready(kind: str, workload: Json) -> bool:
    """Tell whether the newest version of a workload is fully there and nothing of an older one is left."""
    spec, status = workload["spec"], workload.get("status", {})
    if kind == "Job":
        return bool(status.get("succeeded", 0) >= spec.get("completions", 1))
    if status.get("observedGeneration", 0) < workload["metadata"]["generation"]:
        return False
    if kind == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        return bool(wanted == status.get("updatedNumberScheduled", 0) == status.get("numberAvailable", 0))
    wanted = spec.get("replicas", 1)
    counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")]
    return all(count == wanted for count in counts)


def has_ended(job: Json) -> bool:
    """Tell whether a Job has ended, well or not."""
    return bool(_condition(job, "Complete") or _condition(job, "Failed"))


def _is_run(job: Json) -> bool:
    """Tell whether a CronJob or a training task made a Job."""
    metadata = job["metadata"]
    is_of_task = "trainyard.dev/task-id" in metadata.get("labels", {})
    return is_of_task or any(owner["kind"] == "CronJob" for owner in metadata.get("ownerReferences", []))


def _selects(workload: Json, pod: Json) -> bool:
    wanted = workload["spec"]["selector"].get("matchLabels", {})
    return wanted.items() <= pod["metadata"].get("labels", {}).items()


def _explain(kind: str, workload: Json, pods: list[Json]) -> Workload:
    namespace, name = workload["metadata"]["namespace"], workload["metadata"]["name"]
    failed = _failed(workload) if kind == "Job" else None
    if failed:
        return failed
    reasons = [reason for each in pods if (reason := waiting_reason(each))]
    refused = _condition(workload, "ReplicaFailure")
    why = refused or (reasons[0] if reasons else ("rolling out" if pods else "no pod yet"))
    return Workload(kind, namespace, name, why, stuck=any(map(_is_stuck, pods)))


def _failed(job: Json) -> Workload | None:
    why = _condition(job, "Failed")
    metadata = job["metadata"]
    return Workload("Job", metadata["namespace"], metadata["name"], why, stuck=True) if why else None


def _condition(workload: Json, name: str) -> str:
    """Return the message of a condition that is true, "" where it is not."""
    for each in workload.get("status", {}).get("conditions") or []:
        if each["type"] == name and each["status"] == "True":
            return str(each.get("message") or each.get("reason") or name)
    return ""


def _is_stuck(pod: Json) -> bool:
    for container in container_statuses(pod):
        reason = container.get("state", {}).get("waiting", {}).get("reason")
        crashing = reason == "CrashLoopBackOff" and container["restartCount"] >= STUCK_RESTARTS
        if crashing or reason in STUCK_REASONS:
            return True
    return False


def not_ready(kube: Kube, workload: Workload) -> CliError:
    """Return the error for a workload that does not start: why, its pods' events and last log lines."""
    base = f"/api/v1/namespaces/{workload.namespace}"
    found = kube.get(path(workload.identity))
    pods = [each for each in kube.items(f"{base}/pods") if _selects(found, each)]
    lines = [f"{workload.kind} {workload.name} does not become ready: {workload.why}"]
    for pod in pods[-1:]:
        name = pod["metadata"]["name"]
        events = kube.items(f"{base}/events", fieldSelector=f"involvedObject.name={name},type=Warning")
        lines += [f"event: {each.get('message', '').strip()}" for each in events[-3:]]
        for container in _broken_containers(pod):
            log = kube.logs(workload.namespace, name, container, previous=True) or kube.logs(
                workload.namespace, name, container
            )
            lines += [f"{container}: {each}" for each in log.splitlines()]
    where = f"-n {workload.namespace} {workload.kind.lower()}/{workload.name}"
    cure = f"fix what the lines above say (kubectl describe {where}), then run the command again"
    # The platform's own programs end with the cure.
    own = [line.partition(":   cure: ")[2] for line in lines if ":   cure: " in line]
    return CliError("\n  ".join(lines), own[-1] if own else cure)


def _broken_containers(pod: Json) -> list[str]:
    return [
        each["name"]
        for each in container_statuses(pod)
        if not each.get("ready") and each.get("state", {}).get("terminated", {}).get("exitCode") != 0
    ]
