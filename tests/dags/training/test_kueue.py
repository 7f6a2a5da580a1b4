"""What Kueue says of a Job, as a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from trainyard.training import kueue
from trainyard.training.pending import Pending, WaitKind

LACKS = "couldn't assign flavors: insufficient unused quota for nvidia.com/gpu in flavor f, 1 more needed"
JOB = {"metadata": {"uid": "u1", "labels": {kueue.QUEUE: "ondemand"}}, "spec": {"suspend": True}}


def workload(
    uid: str, *, priority: int = 0, queue: str = "ondemand", **conditions: dict[str, str]
) -> dict[str, Any]:
    """One of two pods with a GPU each; its number is its age."""
    limits = {"cpu": "2", "nvidia.com/gpu": "1"}
    template = {"spec": {"containers": [{"resources": {"limits": limits}}]}}
    return {
        "metadata": {
            "name": f"w-{uid}",
            "labels": {kueue.JOB_UID: uid},
            "creationTimestamp": f"2026-11-28T08:00:0{uid[1:]}Z",
        },
        "spec": {"queueName": queue, "priority": priority, "podSets": [{"count": 2, "template": template}]},
        "status": {"conditions": [{"type": kind, **each} for kind, each in conditions.items()]},
    }


def reserved(message: str = "", *, status: str = "False", reason: str = "Pending") -> dict[str, str]:
    return {"status": status, "reason": reason, "message": message}


def test_free_gpus_and_the_place_are_told() -> None:
    pending = kueue.why_queued(JOB, [workload("u1", QuotaReserved=reserved(LACKS))], "pool ondemand")
    assert pending.reason == f"1 of 2 GPUs free in pool ondemand; position 1 of 1 ({LACKS})"
    assert (pending.kind, pending.lacks_gpu) == (WaitKind.QUEUE, True)


@pytest.mark.parametrize(
    ("others", "place"),
    [
        ([workload("u2")], "1 of 2"),
        ([workload("u0")], "2 of 2"),
        ([workload("u2", priority=5)], "2 of 2"),
        ([workload("u0", priority=-5)], "1 of 2"),
        ([workload("u0", queue="spot")], "1 of 1"),
        ([workload("u0", QuotaReserved=reserved(status="True"))], "1 of 1"),
        ([workload("u0", Finished={"status": "True"})], "1 of 1"),
    ],
    ids=["younger", "older", "more urgent", "less urgent", "another queue", "admitted", "finished"],
)
def test_the_place_is_by_priority_and_then_by_age(others: list[dict[str, Any]], place: str) -> None:
    pending = kueue.why_queued(JOB, [*others, workload("u1")], "pool ondemand")
    assert pending.reason == f"position {place} in the queue for pool ondemand"


def test_gpus_that_kueue_counts_and_no_node_offers_are_told() -> None:
    waits = Pending(WaitKind.GPU, "no GPU free in pool spot: 1 of 1 node is busy (0/5 nodes)", lacks_gpu=True)
    told = kueue.but_admitted(waits, "spot")
    assert told.reason.startswith(
        "Kueue has admitted it, and no node of pool spot offers a GPU; if that stays"
    )
    assert told.reason.endswith(" (0/5 nodes)") and told.lacks_gpu
    other = Pending(WaitKind.IMAGE, "image x cannot be pulled")
    assert kueue.but_admitted(other, "spot") is other


def test_who_makes_room_is_told() -> None:
    message = f"{LACKS}. Pending the preemption of 2 workload(s)"
    pending = kueue.why_queued(JOB, [workload("u1", QuotaReserved=reserved(message))], "pool ondemand")
    assert "; 2 of lower priority make room for it (" in pending.reason


NEVER = (
    "couldn't assign flavors to pod set main: insufficient quota for nvidia.com/gpu in flavor f, previously "
    "considered podsets requests (0) + current podset request (2) > maximum capacity (1)"
)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (LACKS, f"1 of 2 GPUs free in pool spot for team vision; position 1 of 2 ({LACKS})"),
        ("", "position 1 of 2 in the queue for pool spot for team vision"),
        (
            f"{LACKS}. Pending the preemption of 1 workload(s)",
            "1 of 2 GPUs free in pool spot for team vision; position 1 of 2; 1 other makes room for it (",
        ),
        (f"{LACKS}. Pending the preemption of 2 workload(s)", "; 2 others make room for it ("),
    ],
)
def test_a_team_is_told(message: str, told: str) -> None:
    found = [workload("u1", QuotaReserved=reserved(message)), workload("u2")]
    assert told in kueue.why_queued(JOB, found, "pool spot", "vision").reason


@pytest.mark.parametrize(("team", "whose"), [("vision", "team vision"), ("", "its queue")])
def test_what_a_queue_can_never_admit_is_told(team: str, whose: str) -> None:
    found = [workload("u1", QuotaReserved=reserved(NEVER))]
    assert kueue.why_never(JOB, found, "pool spot", team) == (
        f"it asks for 2 GPUs of pool spot, of which {whose} may have 1 at most: use fewer nodes or gpus, or "
        f"another pool ({NEVER})"
    )


def test_how_older_kueues_say_so_is_understood() -> None:
    message = "insufficient quota for nvidia.com/gpu in flavor f, request > maximum capacity (2 > 1)"
    found = [workload("u1", QuotaReserved=reserved(message))]
    assert "team vision may have 1 at most" in kueue.why_never(JOB, found, "pool spot", "vision")


@pytest.mark.parametrize(
    "workloads",
    [
        [],
        [workload("u1")],
        [workload("u1", QuotaReserved=reserved(LACKS))],
        [workload("u1"), workload("u2", QuotaReserved=reserved(NEVER))],
    ],
    ids=["not seen yet", "nothing said yet", "waits", "another's"],
)
def test_what_waits_is_not_given_up(workloads: list[dict[str, Any]]) -> None:
    assert kueue.why_never(JOB, workloads, "pool spot", "vision") == ""


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        ({}, ""),
        ({"Evicted": {"status": "False", "reason": "Preempted"}}, ""),
        (
            {"Evicted": {"status": "True", "reason": "Preempted"}, "Preempted": {"reason": "InClusterQueue"}},
            "a Job of higher priority took its GPUs",
        ),
        (
            {"Evicted": {"status": "True", "reason": "PodsReadyTimeout"}},
            "its pods did not all start in time, and gave their GPUs back",
        ),
        (
            {"Evicted": {"status": "True", "reason": "New", "message": "for a new reason"}},
            "Kueue ended its pods: for a new reason",
        ),
    ],
)
def test_why_the_gpus_were_taken_away_is_told(conditions: dict[str, Any], says: str) -> None:
    assert kueue.why_evicted(workload("u1", **conditions)) == says
    told = kueue.why_queued(JOB, [workload("u1", **conditions)], "pool ondemand").reason
    assert told.endswith(says or "pool ondemand")


def test_a_queue_that_is_not_there_is_no_waiting_for_a_gpu() -> None:
    message = "LocalQueue ondemand doesn't exist"
    found = workload("u1", QuotaReserved=reserved(message, reason="Inadmissible"))
    pending = kueue.why_queued(JOB, [found], "pool ondemand")
    assert (pending.kind, pending.lacks_gpu) == (WaitKind.OTHER, False)
    assert pending.reason == f"queue ondemand admits nothing: {message}"


def test_kueue_that_has_not_seen_the_job_is_told() -> None:
    pending = kueue.why_queued(JOB, [workload("u2")], "pool ondemand")
    assert pending.reason == "Kueue has not looked at it yet; queue ondemand"
