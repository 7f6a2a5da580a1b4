"""The common state of the pods of one attempt."""

from __future__ import annotations

from typing import Any

import pytest
from trainyard.failures import Cause
from trainyard.training.gang import GangStatus

INDEX = "batch.kubernetes.io/job-completion-index"
DELETED = "2026-11-21T07:00:00Z"


def pod(
    rank: int,
    *,
    code: int | None = None,
    message: str = "",
    reason: str = "Error",
    node: str = "node",
    runs: bool = False,
    deleted: bool = False,
    uid: str = "first",
) -> dict[str, Any]:
    """A gang's pod: ended with a code, running, or waiting."""
    state: dict[str, Any] = {"running": {}} if runs else {}
    if code is not None:
        state = {"terminated": {"exitCode": code, "message": message, "reason": reason}}
    return {
        "metadata": {
            "name": f"job-{rank}-abcde",
            "uid": uid,
            "annotations": {INDEX: str(rank)},
            **({"deletionTimestamp": DELETED} if deleted else {}),
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"containerStatuses": [{"name": "trainer", "state": state}]},
    }


def seen(*looks: list[dict[str, Any]], nodes: int = 2) -> GangStatus:
    found = GangStatus(nodes)
    for pods in looks:
        found.update(pods)
    return found


def test_it_holds_in_vain_while_some_pods_have_a_node_and_others_none() -> None:
    assert not seen([pod(0, node=""), pod(1, node="")]).partly_scheduled
    assert seen([pod(0), pod(1, node="")]).partly_scheduled
    assert seen([pod(0, runs=True)]).partly_scheduled, "the other may be refused by a quota"
    assert not seen([pod(0), pod(1)]).partly_scheduled
    assert [rank for rank, _ in seen([pod(0), pod(1, node="")]).not_started()] == [1, 0]


def test_it_is_complete_when_all_run() -> None:
    assert not seen([pod(0, runs=True), pod(1)]).all_started
    assert seen([pod(0, runs=True), pod(1, runs=True)]).all_started
    assert seen([pod(0, runs=True), pod(1, code=0)]).all_started


@pytest.mark.parametrize(
    ("looks", "ended"),
    [
        ([[pod(0, runs=True), pod(1, runs=True)]], False),
        ([[pod(0, runs=True), pod(1, code=0)]], False),  # the others have less to do at the end
        ([[pod(0, code=0), pod(1, runs=True)]], True),
        ([[pod(0, runs=True), pod(1, code=1)]], True),
        ([[pod(0, runs=True), pod(1, runs=True, deleted=True)]], True),
        ([[pod(0, runs=True), pod(1, runs=True)], [pod(0, runs=True)]], True),
        ([[pod(0, runs=True), pod(1, code=0)], [pod(0, runs=True)]], False),
        ([[pod(0)], []], True),
        ([[]], False),
    ],
)
def test_it_is_over_with_rank_0_or_with_the_first_loss(looks: list[list[dict]], ended: bool) -> None:
    assert seen(*looks).has_ended is ended


OOM = {"code": 137, "reason": "OOMKilled"}
STOPPED = {"code": 143}  # by SIGTERM, or because it lost a peer


@pytest.mark.parametrize(
    ("first", "second", "cause", "teller"),
    [
        ({"code": 0, "message": '{"f1": 1}'}, {"code": 0}, Cause.SUCCESS, 0),
        ({"code": 0, "message": '{"f1": 1}'}, {"runs": True}, Cause.SUCCESS, 0),
        ({"code": 0}, {"code": 0}, Cause.BAD_RESULT, 0),
        (STOPPED, {"code": 65}, Cause.BAD_DATA, 1),
        ({**STOPPED, "deleted": True}, {"code": 64}, Cause.BAD_CONFIG, 1),
        (STOPPED, {"code": 70}, Cause.CODE, 1),
        (STOPPED, OOM, Cause.OOM, 1),
        (OOM, {"code": 137, "deleted": True}, Cause.OOM, 0),
        (STOPPED, {"code": 75}, Cause.TEMPORARY, 1),
        ({"code": 75}, {**STOPPED, "deleted": True}, Cause.TEMPORARY, 0),
        (STOPPED, {"code": 139}, Cause.KILLED, 1),
        (STOPPED, STOPPED, Cause.PREEMPTED, 0),
        (STOPPED, {"runs": True, "deleted": True}, Cause.PREEMPTED, 0),
        ({"code": 137, "deleted": True}, {"code": 0}, Cause.PREEMPTED, 0),
    ],
)
def test_the_most_telling_end_counts(first: dict, second: dict, cause: Cause, teller: int) -> None:
    outcome, rank = seen([pod(0, **first), pod(1, **second)]).conclude()
    assert (outcome.cause, rank) == (cause, teller)


def test_a_pod_that_vanished_ended_as_it_was_seen_last() -> None:
    outcome, rank = seen([pod(0, runs=True), pod(1, code=65)], []).conclude()
    assert (outcome.cause, rank) == (Cause.BAD_DATA, 1)
    outcome, _ = seen([pod(0, runs=True), pod(1, runs=True)], []).conclude()
    assert outcome.cause is Cause.PREEMPTED
    assert outcome.message == "rank 0 of 2: the pod was deleted"


def test_a_gang_that_was_never_whole_counts_as_taken_away() -> None:
    assert seen([pod(1, code=143)]).conclude()[0].cause is Cause.PREEMPTED


def test_what_is_left_is_what_may_still_write() -> None:
    found = seen([pod(0, runs=True), pod(1, runs=True)], [pod(0, runs=True), pod(1, code=143)])
    assert [entry["metadata"]["name"] for entry in found.unfinished()] == ["job-0-abcde"]
    found.update([])
    assert found.unfinished() == []


@pytest.mark.parametrize("again", [[0, 1], [1, 0]])
def test_a_pod_that_the_job_has_made_anew_has_not_taken_the_place_of_the_one_before(again: list[int]) -> None:
    """Also where the triggerer did not see that the other was deleted."""
    first = [pod(0, runs=True), pod(1, runs=True)]
    replaced = seen(first, [pod(rank, uid="second", runs=True) for rank in again])
    assert replaced.has_ended and replaced.unfinished() == []
    assert [each["metadata"]["uid"] for each in replaced.pods.values()] == ["first"] * 2
    both = seen(first, [*first, pod(0, uid="second")])
    assert not both.has_ended and both.unfinished() == first
