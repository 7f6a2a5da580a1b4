"""Why a pod has not started, in words for people: pure functions over the pod's JSON and its events."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from trainyard.kube.status import UNPULLED_IMAGE, Pod, condition, container_status, event_text

# What the cluster autoscaler and Karpenter say about a pod that finds no node.
_SCALING_EVENTS = {"TriggeredScaleUp", "NotTriggerScaleUp", "Nominated"}
# Taints by which Kubernetes itself marks a node that is in trouble: the node is of the pool, yet unusable.
_TROUBLE = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/", "ToBeDeletedByClusterAutoscaler")
_NODES = re.compile(r"0/\d+ nodes are available: (.*?)(?:\. |\.?$)", re.DOTALL)
_REASON = re.compile(r"(\d+) ([^,{]*(?:\{[^}]*\})?[^,]*)")
_TAINT = re.compile(r"\{([^:}]*)")
_QUOTA = re.compile(r"exceeded quota: ([^,]+), requested: (.*?), used: (.*?), limited: (.*)$", re.DOTALL)


class Wait(StrEnum):
    """What a pod waits for."""

    START = "start"  # its node prepares it
    GPU = "gpu"
    QUOTA = "quota"
    ROOM = "room"  # CPU, memory or pods of a node
    TAINT = "taint"
    VOLUME = "volume"
    IMAGE = "image"
    OTHER = "other"


@dataclass(frozen=True)
class Pending:
    """Why a pod waits. `lacks_gpu`: it would run at once if it wanted no GPU of its pool."""

    kind: Wait
    reason: str
    lacks_gpu: bool = False


def why_pending(
    pod: Pod, events: Iterable[Mapping[str, Any]] = (), *, pool: str | None = None, resource: str = ""
) -> Pending:
    """Say why the pod has not started, from its conditions and its newest warning event.

    `pool` and `resource` are the GPU pool that the pod goes to and what a GPU is called there, if it does.
    """
    events = list(events)
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        found = from_scheduler(scheduled.get("message", ""), pool, resource)
        scaling = [event for event in events if event.get("reason") in _SCALING_EVENTS]
        reason = f"{found.reason}; {event_text(scaling[-1])}" if scaling else found.reason
        return Pending(found.kind, reason, found.lacks_gpu)
    node = pod.get("spec", {}).get("nodeName")
    if not node:
        return Pending(Wait.OTHER, "the scheduler has not looked at it yet")
    waiting = container_status(pod).get("state", {}).get("waiting", {})
    kind = waiting_kind(pod)
    if kind is Wait.IMAGE:
        image = pod["spec"]["containers"][0]["image"]
        words = f"{waiting['reason']} {waiting.get('message', '')}".strip()
        return Pending(kind, f"image {image} cannot be pulled to node {node} ({words})")
    if waiting.get("message"):
        return Pending(kind, f"on node {node}: {waiting.get('reason', '')} {waiting['message']}")
    # What the scheduler said before it found the node is over.
    warnings = [
        event for event in events if event.get("type") == "Warning" and event["reason"] != "FailedScheduling"
    ]
    if warnings and kind is Wait.START:
        volume = any(word in warnings[-1].get("reason", "") for word in ("Mount", "Volume"))
        kind = Wait.VOLUME if volume else Wait.OTHER
        return Pending(kind, f"on node {node}: {event_text(warnings[-1])}")
    return Pending(kind, f"on node {node}: {waiting.get('reason') or 'the node takes it in'}")


def waiting_kind(pod: Pod) -> Wait:
    """What the container waits for; ErrImagePull and ImagePullBackOff alternate and are one kind."""
    reason = str(container_status(pod).get("state", {}).get("waiting", {}).get("reason", ""))
    if reason in UNPULLED_IMAGE:
        return Wait.IMAGE
    return Wait.START if reason in ("", "ContainerCreating", "PodInitializing") else Wait.OTHER


def from_quota(message: str, resource: str = "") -> Pending:
    """What the API server's refusal for a quota means, the original after it."""
    found = _QUOTA.search(message)
    if not found:
        return Pending(Wait.QUOTA, f"no room in the namespace's quota ({message})")
    name, requested, used, limited = found.groups()
    limits, in_use = _amounts(limited), _amounts(used)
    texts = [f"{in_use.get(key, '?')} of {limits.get(key, '?')} {_plain(key)} in use" for key in limits]
    lacks_gpu = bool(resource) and set(_amounts(requested)) == {f"requests.{resource}"}
    what = "no GPU left" if lacks_gpu else "no room"
    original = message[found.start() :]
    return Pending(Wait.QUOTA, f"{what} in quota {name}: {', '.join(texts)} ({original})", lacks_gpu)


def from_scheduler(message: str, pool: str | None = None, resource: str = "") -> Pending:
    """What the scheduler's message means, the original after it: `no GPU free ... (0/5 nodes ...)`."""
    found = _NODES.match(message)
    if not found:
        kind = Wait.VOLUME if _is_volume(message) else Wait.OTHER
        return Pending(kind, f"not scheduled: {message}" if message else "not scheduled")
    nodes = _Nodes()
    for count, reason in _REASON.findall(found[1]):
        nodes.add(int(count), reason.strip(), resource)
    kind, sentence = _sentence(nodes, pool)
    lacks_gpu = pool is not None and kind in (Wait.GPU, Wait.ROOM, Wait.TAINT)
    return Pending(kind, f"{sentence} ({message})", lacks_gpu)


def short(reason: str) -> str:
    """The sentence without the original that follows it in brackets."""
    return reason.partition(" (")[0]


class _Nodes:
    """The scheduler's reasons, counted: each node is left out for one reason, or for several resources."""

    def __init__(self) -> None:
        self.busy = 0  # all GPUs of the node are taken, or it has none
        self.trouble = 0  # cordoned, not ready, under pressure
        self.elsewhere = 0  # other pools
        self.short: dict[str, int] = {}  # of cpu, memory, ...
        self.taints: list[str] = []
        self.tainted = 0
        self.volumes: list[str] = []

    def add(self, count: int, reason: str, resource: str) -> None:
        if resource and reason == f"Insufficient {resource}":
            self.busy += count
        elif reason.startswith("Insufficient ") or reason == "Too many pods":
            self.short[_plain(reason.removeprefix("Insufficient "))] = count
        elif "untolerated taint" in reason:
            taint = _TAINT.search(reason)
            if taint and taint[1].startswith(_TROUBLE):
                self.trouble += count
            else:
                self.tainted += count
                self.taints += [taint[1]] if taint else []
        elif "unschedulable" in reason:
            self.trouble += count
        elif "affinity/selector" in reason or "affinity rules" in reason:
            self.elsewhere += count
        elif _is_volume(reason):
            self.volumes.append(reason)


def _sentence(nodes: _Nodes, pool: str | None) -> tuple[Wait, str]:
    if nodes.volumes:
        return Wait.VOLUME, f"its volumes are not where a node is: {', '.join(nodes.volumes)}"
    where = f"of pool {pool} " if pool else ""
    trouble = (
        f", {_count(nodes.trouble, 'node is', 'nodes are')} cordoned or not ready" if nodes.trouble else ""
    )
    if nodes.busy and pool:
        busy = _count(nodes.busy, "node is", "nodes are")
        return Wait.GPU, f"no GPU free in pool {pool}: {nodes.busy} of {busy} busy{trouble}"
    if nodes.short:
        lacking = ", ".join(
            f"{name} on {_count(count, 'node', 'nodes')}" for name, count in nodes.short.items()
        )
        return Wait.ROOM, f"no node {where}has room: too little {lacking}{trouble}"
    if pool and nodes.trouble:
        return Wait.GPU, f"no node of pool {pool} can be used{trouble}"
    taints = f" ({', '.join(sorted(set(nodes.taints)))})" if nodes.taints else ""
    tainted = f"{_count(nodes.tainted, 'node has', 'nodes have')} a taint that it does not tolerate{taints}"
    if pool:
        others = f"{_count(nodes.elsewhere, 'node is', 'nodes are')} of other kinds"
        return Wait.GPU, f"there is no node of pool {pool}: {tainted}, {others}"
    return (Wait.TAINT, f"no node takes it: {tainted}") if nodes.tainted else (Wait.OTHER, "no node suits it")


def _is_volume(reason: str) -> bool:
    return bool(re.search(r"volume|persistentvolume", reason, re.IGNORECASE))


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _amounts(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)


def _plain(resource: str) -> str:
    name = resource.removeprefix("requests.").removeprefix("limits.")
    return "GPUs" if name.endswith("/gpu") else name.replace("Too many pods", "pods")
