"""What Kueue does with a Job, as text: pure functions over the Job and the Workloads of its namespace.

The messages are Kueue 0.17's. A Workload has no condition about the quota while it is not at the head of its
queue.

Each team has a queue of its own for each pool and list of pools, which may borrow what others leave. The
Workloads of another namespace cannot be seen here; but Kueue counts them when it says how many GPUs a queue
lacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from trainyard.kube.status import condition
from trainyard.training.pending import Pending, WaitKind

QUEUE = "kueue.x-k8s.io/queue-name"  # label of a Job: the LocalQueue that admits it
JOB_UID = "kueue.x-k8s.io/job-uid"  # label of a Workload
Object = Mapping[str, Any]
_LACKS = re.compile(r"insufficient unused quota for \S+ in flavor \S+, (\d+) more needed")
_NEVER = re.compile(r"> maximum capacity \((?:\S+ > )?([^\s)]+)\)")
_PREEMPTS = re.compile(r"Pending the preemption of (\d+) workload")
_EVICTED = {
    "InClusterQueue": "a Job of higher priority took its GPUs",
    "InCohortReclamation": "who had lent its GPUs took them back",
    "InCohortReclaimWhileBorrowing": "a Job of higher priority took its GPUs",
    "PodsReadyTimeout": "its pods did not all start in time, and gave their GPUs back",
}


def is_suspended(job: Object) -> bool:
    """Whether the Job has no pods, as it waits for its turn or was preempted."""
    return bool(job["spec"].get("suspend"))


def node_selector(job: Object) -> Mapping[str, str]:
    """The labels of the nodes that its pods select; of an admitted Job those of the chosen pool as well."""
    return job["spec"]["template"]["spec"].get("nodeSelector") or {}


def workload_of(job: Object, workloads: Iterable[Object]) -> Object | None:
    """The Workload that Kueue has made for a Job; None before it has seen the Job."""
    uid = job["metadata"]["uid"]
    return next((each for each in workloads if each["metadata"].get("labels", {}).get(JOB_UID) == uid), None)


def why_never(job: Object, workloads: Iterable[Object], pool: str, team: str = "") -> str:
    """Why its queue can never admit a Job, which would stop all who wait behind it; "" if it can.

    `pool` is what it waits for, in words (`GpuPool.words`).
    """
    workload = workload_of(job, workloads)
    message = condition(workload or {}, "QuotaReserved").get("message", "")
    found = _NEVER.findall(message)
    # Of a list of pools, each that is large enough is told as one that lacks GPUs now.
    if workload is None or not found or _LACKS.search(message):
        return ""
    may_have = f"{f'team {team}' if team else 'its queue'} may have {max(found, key=_number)} at most"
    cure = "use fewer nodes or gpus, or another pool"
    return f"it asks for {_gpus(workload)} GPUs of {pool}, of which {may_have}: {cure} ({message})"


def why_queued(job: Object, workloads: Iterable[Object], pool: str, team: str = "") -> Pending:
    """Why a suspended Job waits in the queue of a GPU pool: free GPUs and its place, in one sentence.

    `pool` is what it waits for, in words (`GpuPool.words`); free GPUs of a list are those of the pool with
    most of them. With a `team`, free are those that the team may have now: its own and what it may borrow.
    """
    workloads = list(workloads)
    workload = workload_of(job, workloads)
    if workload is None:
        return Pending(WaitKind.QUEUE, f"Kueue has not looked at it yet; queue {_queue(job)}", lacks_gpu=True)
    reserved = condition(workload, "QuotaReserved")
    message = reserved.get("message", "")
    if reserved.get("reason") == "Inadmissible":
        return Pending(WaitKind.OTHER, f"queue {_queue(job)} admits nothing: {message}")
    position, waiting = _position(workload, workloads)
    place = f"position {position} of {waiting}"
    free = _free(message, workload, pool)
    of_team = f" for team {team}" if team else ""
    texts = [f"{free}{of_team}", place] if free else [f"{place} in the queue for {pool}{of_team}"]
    if found := _PREEMPTS.search(message):
        # Who lent GPUs takes them back from any priority.
        who = f"{found[1]} other{'' if found[1] == '1' else 's'}" if team else f"{found[1]} of lower priority"
        texts.append(f"{who} {'makes' if found[1] == '1' else 'make'} room for it")
    if preempted := why_evicted(workload):
        texts.append(preempted)
    original = f" ({message})" if message else ""
    return Pending(WaitKind.QUEUE, "; ".join(texts) + original, lacks_gpu=True)


def but_admitted(pending: Pending, pool: str) -> Pending:
    """What keeps the pods of an admitted Job: GPUs that Kueue takes for free may not be there."""
    if pending.kind is not WaitKind.GPU:
        return pending
    _, bracket, original = pending.reason.partition(" (")
    explained = (
        f"Kueue has admitted it, and no node of pool {pool} offers a GPU; if that stays, look at the nodes "
        "and their device plugin"
    )
    return replace(pending, reason=f"{explained}{bracket}{original}")


def why_evicted(workload: Object) -> str:
    """Why Kueue took the Job's GPUs away last, as a sentence; "" if it did not."""
    evicted, preempted = condition(workload, "Evicted"), condition(workload, "Preempted")
    if evicted.get("status") != "True":
        return ""
    reason = preempted.get("reason") if evicted.get("reason") == "Preempted" else evicted.get("reason")
    return _EVICTED.get(str(reason), f"Kueue ended its pods: {evicted.get('message', reason)}")


def _queue(job: Object) -> str:
    return str(job["metadata"].get("labels", {}).get(QUEUE, "?"))


def _free(message: str, workload: Object, pool: str) -> str:
    """How many of the GPUs that it asks for are free; "" if Kueue has not said."""
    lacks = [int(number) for number in _LACKS.findall(message)]
    if not lacks:
        return ""
    asked = _gpus(workload)
    return f"{max(0, asked - min(lacks))} of {asked} GPUs free in {pool}"


def _number(quantity: str) -> int:
    return int(quantity) if quantity.isdigit() else 1000  # it is written as 1k


def _gpus(workload: Object) -> int:
    """The GPUs that all pods of a Workload ask for, which are all that a queue counts."""
    total = 0
    for pods in workload["spec"].get("podSets", []):
        for container in pods["template"]["spec"]["containers"]:
            limits = container.get("resources", {}).get("limits", {})
            total += pods["count"] * sum(int(number) for name, number in limits.items() if "/" in name)
    return total


def _position(workload: Object, workloads: Iterable[Object]) -> tuple[int, int]:
    """Its place among those that wait in its queue, and how many they are: by priority, then by age."""
    queue = workload["spec"].get("queueName")
    waiting = [each for each in workloads if each["spec"].get("queueName") == queue and _waits(each)]
    places = sorted(waiting, key=_place)
    names = [each["metadata"]["name"] for each in places]
    name = workload["metadata"]["name"]
    return (names.index(name) + 1 if name in names else 1), max(1, len(names))


def _waits(workload: Object) -> bool:
    return all(condition(workload, kind).get("status") != "True" for kind in ("QuotaReserved", "Finished"))


def _place(workload: Object) -> tuple[int, str, str]:
    meta = workload["metadata"]
    return -int(workload["spec"].get("priority") or 0), meta["creationTimestamp"], meta["name"]
