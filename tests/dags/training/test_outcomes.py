"""The cause of each way in which a pod can end or fail to start, and the action that follows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from trainyard.failures import Cause
from trainyard.kube.client import NODE_SECONDS
from trainyard.training.outcomes import (
    LOST_WITH_NODE_SECONDS,
    POLICY,
    UNREACHABLE_SECONDS,
    Action,
    classify,
    has_ended,
    has_started,
    is_lost,
    may_be_lost,
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


def evicted(message: str) -> dict[str, Any]:
    """A pod as the kubelet leaves it that evicts one; it always sets the condition."""
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    status = {"phase": "Failed", "reason": "Evicted", "message": message, "conditions": [disrupted]}
    return pod(exit_code=137, status=status)


WORKER = "RuntimeError: DataLoader worker (pid 9)"
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
        (pod(exit_code=70, message="CUDA error: uncorrectable ECC error encountered"), Cause.GPU_FAULT),
        (pod(exit_code=1, message="RuntimeError: GPU has fallen off the bus"), Cause.GPU_FAULT),
        (pod(exit_code=1), Cause.UNKNOWN),
        (pod(exit_code=3, message="Traceback"), Cause.UNKNOWN),
        (pod(exit_code=75), Cause.TEMPORARY),
        (pod(exit_code=75, message="psycopg2: workers are out of shared memory"), Cause.TEMPORARY),
        (pod(exit_code=143, message="GPU has fallen off the bus"), Cause.PREEMPTED),
        (pod(exit_code=1, message="psycopg2.errors.OutOfMemory: out of shared memory"), Cause.UNKNOWN),
        (pod(exit_code=1, message="NVRM: Xid (PCI:0000:3b:00): 79, pid=9, it is gone"), Cause.GPU_FAULT),
        (pod(exit_code=1, message="Xid 95: uncontained ECC error"), Cause.GPU_FAULT),
        (pod(exit_code=1, message="NVRM: Xid (PCI:0000:3b:00): 31, pid=9, MMU Fault"), Cause.UNKNOWN),
        (pod(exit_code=1, message="no Xid 4800 here"), Cause.UNKNOWN),
        (pod(exit_code=1, message="the hardware stack error of a simulation"), Cause.UNKNOWN),
        (pod(exit_code=135), Cause.STORAGE),
        (
            pod(exit_code=135, message="DataLoader workers are out of shared memory"),
            Cause.STORAGE,
        ),
        (
            pod(exit_code=70, message=f"{WORKER} is killed by signal: Bus error. It is possible"),
            Cause.STORAGE,
        ),
        (
            pod(exit_code=1, message="unable to write to file </torch_7_1>: No space left on device"),
            Cause.STORAGE,
        ),
        (pod(exit_code=1, message=f"{WORKER} is killed by signal: Killed."), Cause.OOM),
        (pod(exit_code=1, reason="OOMKilled"), Cause.OOM),
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
        (
            evicted("The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi"),
            Cause.PREEMPTED,
        ),
        (evicted('Usage of EmptyDir volume "tmp" exceeds the limit "4Gi". '), Cause.STORAGE),
        (evicted('Container trainer exceeded its local ephemeral storage limit "1Gi". '), Cause.STORAGE),
        (
            evicted("Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "),
            Cause.STORAGE,
        ),
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
    relaunched = {cause for cause, action in POLICY.items() if action is Action.RELAUNCH}
    assert relaunched == {Cause.PREEMPTED, Cause.GPU_FAULT}


@pytest.mark.parametrize(
    ("message", "key"),
    [
        ('Usage of EmptyDir volume "tmp" exceeds the limit "4Gi". ', "`scratch_size`"),
        ('Usage of EmptyDir volume "shm" exceeds the limit "1Gi". ', "`shared_memory_size`"),
        ('Usage of EmptyDir volume "mine" exceeds the limit "1Gi". ', "the volume's sizeLimit"),
        (
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
            "ephemeral-storage",
        ),
    ],
)
def test_a_limit_that_was_exceeded_comes_with_what_raises_it(message: str, key: str) -> None:
    told = classify(evicted(message)).message
    assert told.startswith(message.strip().rstrip(".")) and key in told.rpartition("; raise ")[2]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("", "is missing"),
        ("done", "is no JSON (it begins with 'done')"),
        ("[1]", "is no JSON object"),
        ('{"f1": ' + "1" * 4089, "is longer than 4000 bytes"),
    ],
)
def test_a_result_that_is_none_is_named(message: str, says: str) -> None:
    assert says in classify(pod(exit_code=0, message=message)).message


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


def test_the_name_of_an_image_is_no_failure_that_goes_by_itself() -> None:
    message = 'failed to pull image "timeout/bad-gateway:1": not found'
    waiting = pod(waiting={"reason": "ErrImagePull", "message": message})
    waiting["spec"]["containers"][0]["image"] = "timeout/bad-gateway:1"
    failure = pending_failure(waiting, 200)
    assert failure and failure.cause is Cause.IMAGE


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("CreateContainerConfigError", 'secret "request-timeout" not found'),
        ("CreateContainerConfigError", 'couldn\'t find key context deadline exceeded in Secret "a"'),
        ("CreateContainerError", 'failed to create: "/opt/timeout/connection-reset": no such file'),
        ("ErrImagePull", "failed to resolve reference registry.lan/service-unavailable/i:1: not found"),
        ("ImagePullBackOff", 'Back-off pulling image "i:1": not found'),
    ],
)
def test_words_in_names_are_no_failure_that_goes_by_itself(reason: str, message: str) -> None:
    assert pending_failure(pod(waiting={"reason": reason, "message": message}), 200)


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("ErrImagePull", "failed to do request: Head https://r/v2/: dial tcp 10.0.0.1:443: i/o timeout"),
        ("ImagePullBackOff", 'Back-off pulling image "i:1": unexpected status: 429 Too Many Requests'),
        ("ErrImagePull", "unexpected status from HEAD request: 503 Service Unavailable"),
        ("CreateContainerError", "context deadline exceeded"),
        ("ImagePullBackOff", 'Back-off pulling image "registry.lan/i:1"'),
    ],
)
def test_what_a_registry_or_a_volume_may_get_over_is_waited_for(reason: str, message: str) -> None:
    assert pending_failure(pod(waiting={"reason": reason, "message": message}), 9999) is None


def test_a_pod_is_lost_once_it_should_be_gone() -> None:
    assert not is_lost(pod(), datetime(2026, 11, 21, 7, 30, tzinfo=UTC))
    assert not is_lost(pod(deleted=DELETED), datetime(2026, 11, 21, 7, 0, 30, tzinfo=UTC))
    assert is_lost(pod(deleted=DELETED), datetime(2026, 11, 21, 7, 2, tzinfo=UTC))


def test_a_pod_of_an_unreachable_node_may_be_lost_before_its_grace_period_ends() -> None:
    """It is relaunched within two minutes of the node's last sign of life."""
    conditions = [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]
    there = pod(deleted=DELETED, status={"conditions": conditions})
    there["metadata"]["deletionGracePeriodSeconds"] = 60  # deleted at 06:59:00
    assert not may_be_lost(there, datetime(2026, 11, 21, 6, 59, 30, tzinfo=UTC))
    assert may_be_lost(there, datetime(2026, 11, 21, 6, 59, 41, tzinfo=UTC))
    # A live node that somebody tainted lets the pod have its grace period.
    assert not is_lost(there, datetime(2026, 11, 21, 6, 59, 59, tzinfo=UTC))
    assert not may_be_lost(pod(deleted=DELETED), datetime(2026, 11, 21, 6, 59, 59, tzinfo=UTC))
    monitor = 50 + 5  # Kubernetes' own, and how often it looks
    assert monitor + UNREACHABLE_SECONDS + LOST_WITH_NODE_SECONDS + NODE_SECONDS < 120
