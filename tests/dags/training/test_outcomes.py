"""The cause of each way in which a pod can end or fail to start, and the action that follows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from trainyard.failures import Cause
from trainyard.training.outcomes import (
    POLICY,
    Action,
    classify,
    has_ended,
    has_started,
    is_lost,
    pending_failure,
)


def pod(
    *,
    exit_code: int | None = None,
    reason: str = "Error",
    message: str = "",
    waiting: dict[str, str] | None = None,
    status: dict[str, Any] | None = None,
    deleted: str = "",
) -> dict[str, Any]:
    state: dict[str, Any] = {}
    if exit_code is not None:
        state = {"terminated": {"exitCode": exit_code, "reason": reason, "message": message}}
    elif waiting:
        state = {"waiting": waiting}
    return {
        "metadata": {"name": "p", **({"deletionTimestamp": deleted} if deleted else {})},
        "spec": {"containers": [{"image": "i:1"}], "activeDeadlineSeconds": 60, "nodeName": "n"},
        "status": {
            **({"containerStatuses": [{"name": "trainer", "state": state}]} if state else {}),
            **(status or {}),
        },
    }


DELETED = "2026-11-21T07:00:00Z"
DISRUPTED = {
    "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]
}


@pytest.mark.parametrize(
    ("ended", "cause"),
    [
        (pod(exit_code=0, message='{"f1": 0.9}'), Cause.SUCCESS),
        (pod(exit_code=0, message='{"f1": 0.9}', deleted=DELETED), Cause.SUCCESS),
        (pod(exit_code=0, message=""), Cause.BAD_RESULT),
        (pod(exit_code=0, message="[1]"), Cause.BAD_RESULT),
        (pod(exit_code=64), Cause.BAD_CONFIG),
        (pod(exit_code=65), Cause.BAD_DATA),
        (pod(exit_code=65, deleted=DELETED), Cause.BAD_DATA),
        (pod(exit_code=70), Cause.CODE),
        (pod(exit_code=1), Cause.CODE),
        (pod(exit_code=75), Cause.TEMPORARY),
        (pod(exit_code=137, reason="OOMKilled"), Cause.OOM),
        (pod(exit_code=137, message='{"error": "out of memory: 9 GiB", "exit_code": 137}'), Cause.OOM),
        (pod(exit_code=137, message='{"error": "CUDA out of memory", "exit_code": 137}'), Cause.GPU_OOM),
        (pod(exit_code=137, message='{"error": "x", "exit_code": 137}', deleted=DELETED), Cause.OOM),
        (pod(exit_code=137, message='{"error": "x", "exit_code": 1}'), Cause.KILLED),
        (pod(exit_code=137), Cause.KILLED),
        (pod(exit_code=139), Cause.KILLED),
        (pod(exit_code=143), Cause.PREEMPTED),
        (pod(exit_code=137, deleted=DELETED), Cause.PREEMPTED),
        (pod(exit_code=137, status=DISRUPTED), Cause.PREEMPTED),
        (pod(exit_code=127), Cause.BAD_CONFIG),
        (pod(exit_code=128, reason="StartError", message="no such file"), Cause.BAD_CONFIG),
        (pod(exit_code=137, status={"reason": "DeadlineExceeded"}), Cause.DEADLINE),
        (pod(status={"phase": "Failed", "reason": "DeadlineExceeded"}), Cause.DEADLINE),
        (pod(status={"phase": "Failed", "reason": "Evicted"}), Cause.PREEMPTED),
        (pod(exit_code=137, status={"phase": "Failed", "reason": "NodeShutdown"}), Cause.PREEMPTED),
        (pod(status={"phase": "Failed", "reason": "UnexpectedAdmissionError"}), Cause.PREEMPTED),
        (pod(status={"phase": "Failed", "reason": "OutOfnvidia.com/gpu"}), Cause.PREEMPTED),
    ],
)
def test_every_end_has_its_cause(ended: dict[str, Any], cause: Cause) -> None:
    assert has_started(ended) and has_ended(ended)
    assert classify(ended).cause is cause


def test_every_cause_has_a_policy() -> None:
    assert set(POLICY) == set(Cause)
    assert [cause for cause, action in POLICY.items() if action is Action.RELAUNCH] == [Cause.PREEMPTED]


def test_the_message_carries_the_trainers_own_words() -> None:
    ended = pod(exit_code=64, message='{"error": "unknown parameter \'epoch\'", "exit_code": 64}')
    assert classify(ended).message.endswith("configuration: unknown parameter 'epoch'")
    assert "Traceback" in classify(pod(exit_code=1, message="Traceback: x")).message


def test_a_success_carries_its_result() -> None:
    assert classify(pod(exit_code=0, message='{"f1": 0.9}')).result == {"f1": 0.9}


@pytest.mark.parametrize(
    ("reason", "seconds", "cause"),
    [
        ("InvalidImageName", 0, Cause.IMAGE),
        ("ErrImageNeverPull", 0, Cause.IMAGE),
        ("ImagePullBackOff", 10, None),
        ("ErrImagePull", 200, Cause.IMAGE),
        ("CreateContainerConfigError", 10, None),
        ("CreateContainerConfigError", 90, Cause.BAD_CONFIG),
        ("ContainerCreating", 9999, None),
    ],
)
def test_a_pod_that_will_never_start_is_given_up(reason: str, seconds: int, cause: Cause | None) -> None:
    failure = pending_failure(pod(waiting={"reason": reason, "message": "m"}), seconds)
    assert (failure.cause if failure else None) is cause


def test_a_pod_is_lost_once_it_should_be_gone() -> None:
    assert not is_lost(pod(), datetime(2026, 11, 21, 7, 30, tzinfo=UTC))
    assert not is_lost(pod(deleted=DELETED), datetime(2026, 11, 21, 7, 0, 30, tzinfo=UTC))
    assert is_lost(pod(deleted=DELETED), datetime(2026, 11, 21, 7, 2, tzinfo=UTC))
