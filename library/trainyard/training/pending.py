"""Why a pod has not started, as text: pure functions over the pod's JSON and its events."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from trainyard.kube.status import IMAGE_PULL_ERRORS, Pod, condition, container_status, event_text

# Events of the cluster autoscaler and Karpenter for a pod that has no node.
_SCALING_EVENTS = {"TriggeredScaleUp", "NotTriggerScaleUp", "Nominated"}
# Taints that Kubernetes sets on nodes with a problem: such a node belongs to the pool, but is unusable.
_NODE_PROBLEM_TAINTS = (
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "ToBeDeletedByClusterAutoscaler",
)
_SCHEDULER_MESSAGE = re.compile(r"0/\d+ nodes are available: (.*?)(?:\. |\.?$)", re.DOTALL)
_REASON = re.compile(r"(\d+) ([^,{]*(?:\{[^}]*\})?[^,]*)")
_TAINT = re.compile(r"\{([^:}]*)")
_QUOTA = re.compile(r"exceeded quota: ([^,]+), requested: (.*?), used: (.*?), limited: (.*)$", re.DOTALL)

_REFUSED = (" is forbidden: ", " is invalid: ", " denied the request")


class WaitKind(StrEnum):
    """What a pod waits for."""

    START = "start"  # its node is starting it
    GPU = "gpu"
    QUEUE = "queue"  # Kueue lets others run first
    QUOTA = "quota"
    ROOM = "room"  # CPU, memory or the number of pods on a node
    TAINT = "taint"
    VOLUME = "volume"
    IMAGE = "image"
    OTHER = "other"


@dataclass(frozen=True)
class Pending:
    """Why a pod waits. `lacks_gpu`: it could run now if it requested no GPU."""

    kind: WaitKind
    reason: str
    lacks_gpu: bool = False


def why_pending(
    pod: Pod, events: Iterable[Mapping[str, Any]] = (), *, pool: str | None = None, resource: str = ""
) -> Pending:
    """Return why the pod has not started, from its conditions and its newest warning event.

    `pool` and `resource` are the pod's GPU pool and the resource name of its GPUs, if it requests any.
    """
    events = list(events)
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        pending = from_scheduler(scheduled.get("message", ""), pool, resource)
        scaling = [event for event in events if event.get("reason") in _SCALING_EVENTS]
        return replace(pending, reason=f"{pending.reason}; {event_text(scaling[-1])}") if scaling else pending
    node = pod.get("spec", {}).get("nodeName")
    if not node:
        return Pending(WaitKind.OTHER, "the scheduler has not processed it yet")
    waiting = container_status(pod).get("state", {}).get("waiting", {})
    kind = waiting_kind(pod)
    if kind is WaitKind.IMAGE:
        image = pod["spec"]["containers"][0]["image"]
        error = f"{waiting['reason']} {waiting.get('message', '')}".strip()
        return Pending(kind, f"image {image} cannot be pulled to node {node} ({error})")
    if waiting.get("message"):
        return Pending(kind, f"on node {node}: {waiting.get('reason', '')} {waiting['message']}")
    # FailedScheduling is from before the pod got its node.
    warnings = [
        event for event in events if event.get("type") == "Warning" and event["reason"] != "FailedScheduling"
    ]
    if warnings and kind is WaitKind.START:
        volume = any(word in warnings[-1].get("reason", "") for word in ("Mount", "Volume"))
        kind = WaitKind.VOLUME if volume else WaitKind.OTHER
        return Pending(kind, f"on node {node}: {event_text(warnings[-1])}")
    return Pending(kind, f"on node {node}: {waiting.get('reason') or 'the kubelet is starting it'}")


def fits_no_node(pod: Pod, events: Iterable[Mapping[str, Any]] = ()) -> bool:
    """Whether no node has as much memory even if it is empty, and no autoscaler brings one that has.

    The scheduler says of a node that is cordoned or not ready only that, so one is taken for large enough.
    """
    message = condition(pod, "PodScheduled").get("message", "")
    # A node that is only full counts as one without victims.
    never = "Preemption is not helpful" in message and "No preemption victims" not in message
    scales = any(event.get("reason") in _SCALING_EVENTS - {"NotTriggerScaleUp"} for event in events)
    match = _SCHEDULER_MESSAGE.match(message)
    nodes = _NodeCounts.of(match[1] if match else "")
    return "Insufficient memory" in message and never and not scales and not nodes.unusable


def waiting_kind(pod: Pod) -> WaitKind:
    """What the container waits for; ErrImagePull and ImagePullBackOff alternate, so they are one kind."""
    reason = str(container_status(pod).get("state", {}).get("waiting", {}).get("reason", ""))
    if reason in IMAGE_PULL_ERRORS:
        return WaitKind.IMAGE
    return WaitKind.START if reason in ("", "ContainerCreating", "PodInitializing") else WaitKind.OTHER


def from_quota(message: str, resource: str = "") -> Pending:
    """Explain the API server's `exceeded quota` error; its message follows in brackets."""
    match = _QUOTA.search(message)
    if not match:
        return Pending(WaitKind.QUOTA, f"no room in the namespace's quota ({message})")
    name, requested, used, limited = match.groups()
    limits, in_use = _parse_resources(limited), _parse_resources(used)
    texts = [f"{in_use.get(key, '?')} of {limits[key]} {_resource_text(key)} in use" for key in limits]
    lacks_gpu = bool(resource) and set(_parse_resources(requested)) == {f"requests.{resource}"}
    lack = "no GPU left" if lacks_gpu else "no room"
    original = message[match.start() :]
    return Pending(WaitKind.QUOTA, f"{lack} in quota {name}: {', '.join(texts)} ({original})", lacks_gpu)


def is_refusal(message: str) -> bool:
    """Whether the API server refuses a pod for what it is, and would do so again."""
    return any(words in message for words in _REFUSED)


def from_scheduler(message: str, pool: str | None = None, resource: str = "") -> Pending:
    """Explain the scheduler's message, which follows in brackets: `no GPU free ... (0/5 nodes ...)`."""
    match = _SCHEDULER_MESSAGE.match(message)
    if not match:
        kind = WaitKind.VOLUME if _is_volume(message) else WaitKind.OTHER
        return Pending(kind, f"not scheduled: {message}" if message else "not scheduled")
    nodes = _NodeCounts.of(match[1], resource)
    kind, explanation = _explain(nodes, pool)
    lacks_gpu = pool is not None and kind in (WaitKind.GPU, WaitKind.ROOM, WaitKind.TAINT)
    return Pending(kind, f"{explanation} ({message})", lacks_gpu)


def short_reason(reason: str) -> str:
    """The explanation without the original message that follows it in brackets."""
    return reason.partition(" (")[0]


class _NodeCounts:
    """The number of nodes by the scheduler's reason; a node counts once for each resource that it lacks."""

    def __init__(self) -> None:
        self.busy = 0  # all GPUs of the node are in use, or it has none
        self.unusable = 0  # cordoned, not ready, under pressure
        self.not_matching = 0  # nodes of other pools
        self.lacking: dict[str, int] = {}  # by resource: cpu, memory, ...
        self.taints: list[str] = []
        self.tainted = 0
        self.volumes: list[str] = []

    @classmethod
    def of(cls, reasons: str, resource: str = "") -> _NodeCounts:
        """Return the counts that the scheduler's message has."""
        counts = cls()
        for count, reason in _REASON.findall(reasons):
            counts.add(int(count), reason.strip(), resource)
        return counts

    def add(self, count: int, reason: str, resource: str) -> None:
        if resource and reason == f"Insufficient {resource}":
            self.busy += count
        elif reason.startswith("Insufficient ") or reason == "Too many pods":
            self.lacking[_resource_text(reason.removeprefix("Insufficient "))] = count
        elif "untolerated taint" in reason:
            taint = _TAINT.search(reason)
            if taint and taint[1].startswith(_NODE_PROBLEM_TAINTS):
                self.unusable += count
            else:
                self.tainted += count
                self.taints += [taint[1]] if taint else []
        elif "unschedulable" in reason:
            self.unusable += count
        elif "affinity/selector" in reason or "affinity rules" in reason:
            self.not_matching += count
        elif _is_volume(reason):
            self.volumes.append(reason)


def _explain(nodes: _NodeCounts, pool: str | None) -> tuple[WaitKind, str]:
    if nodes.volumes:
        return WaitKind.VOLUME, f"no node can use its volumes: {', '.join(nodes.volumes)}"
    of_pool = f"of pool {pool} " if pool else ""
    unusable = (
        f", {_pluralize(nodes.unusable, 'node is', 'nodes are')} cordoned or not ready"
        if nodes.unusable
        else ""
    )
    if nodes.busy and pool:
        busy = _pluralize(nodes.busy, "node is", "nodes are")
        return WaitKind.GPU, f"no GPU free in pool {pool}: {nodes.busy} of {busy} busy{unusable}"
    if nodes.lacking:
        lacking = ", ".join(
            f"{name} on {_pluralize(count, 'node', 'nodes')}" for name, count in nodes.lacking.items()
        )
        return WaitKind.ROOM, f"no node {of_pool}has room: too little {lacking}{unusable}"
    if pool and nodes.unusable:
        return WaitKind.GPU, f"no node of pool {pool} can be used{unusable}"
    taints = f" ({', '.join(sorted(set(nodes.taints)))})" if nodes.taints else ""
    tainted = (
        f"{_pluralize(nodes.tainted, 'node has', 'nodes have')} a taint that it does not tolerate{taints}"
    )
    if pool:
        others = f"{_pluralize(nodes.not_matching, 'node is', 'nodes are')} of other kinds"
        return WaitKind.GPU, f"there is no node of pool {pool}: {tainted}, {others}"
    if nodes.tainted:
        return WaitKind.TAINT, f"no node accepts it: {tainted}"
    return WaitKind.OTHER, "no node matches"


def _is_volume(reason: str) -> bool:
    return bool(re.search(r"volume|persistentvolume", reason, re.IGNORECASE))


def _pluralize(number: int, singular: str, plural: str) -> str:
    return f"{number} {singular if number == 1 else plural}"


def _parse_resources(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)


def _resource_text(resource: str) -> str:
    name = resource.removeprefix("requests.").removeprefix("limits.")
    return "GPUs" if name.endswith("/gpu") else name.replace("Too many pods", "pods")
