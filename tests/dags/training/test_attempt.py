"""Which attempt follows an outcome, and how its state survives a restart of the triggerer."""

from __future__ import annotations

import pytest
from trainyard.failures import Cause
from trainyard.training.attempt import ANNOTATION, Attempt, RetryPlan
from trainyard.training.outcomes import Outcome

SPOT = Attempt(gpu_pool="spot")


def after(attempt: Attempt, *causes: Cause, **plan: object) -> Attempt | None:
    for cause in causes:
        following = attempt.after(Outcome(cause, ""), RetryPlan(**plan))
        if following is None:
            return None
        attempt = following
    return attempt


def test_reclaims_are_made_up_for_up_to_a_number() -> None:
    assert after(SPOT, Cause.PREEMPTED) == Attempt(2, "spot", reclaims=1)
    assert after(SPOT, *[Cause.PREEMPTED] * 3, max_preemptions=2) is None


def test_after_some_reclaims_another_pool_takes_over() -> None:
    plan = {"escalate_to": "ondemand", "escalate_after": 2}
    assert after(SPOT, Cause.PREEMPTED, **plan).gpu_pool == "spot"
    assert after(SPOT, Cause.PREEMPTED, Cause.PREEMPTED, **plan).gpu_pool == "ondemand"
    assert after(Attempt(), Cause.PREEMPTED, Cause.PREEMPTED, **plan).gpu_pool is None, "a CPU pod stays one"


def test_memory_is_doubled_once() -> None:
    assert after(SPOT, Cause.OOM) == Attempt(2, "spot", memory_factor=2, ooms=1)
    assert after(SPOT, Cause.OOM, Cause.OOM) is None
    assert after(SPOT, Cause.OOM, Cause.PREEMPTED, Cause.OOM) is None
    assert after(SPOT, Cause.OOM, on_oom="fail") is None


def test_the_batch_is_halved_where_memory_would_not_help() -> None:
    for cause, plan in ((Cause.OOM, {"on_oom": "batch"}), (Cause.GPU_OOM, {})):
        following = after(SPOT, cause, **plan)
        assert (following.batch_divisor, following.memory_factor) == (2, 1)


@pytest.mark.parametrize(
    "cause", [Cause.IMAGE, Cause.CODE, Cause.STORAGE, Cause.UNKNOWN, Cause.TEMPORARY, Cause.SUCCESS]
)
def test_other_causes_end_the_try(cause: Cause) -> None:
    assert after(SPOT, cause) is None


def test_a_fallback_stays_one() -> None:
    cpu = after(SPOT.on_cpu(), Cause.PREEMPTED, Cause.PREEMPTED, escalate_to="ondemand")
    assert (cpu.gpu_pool, cpu.fallback, cpu.batch_divisor) == (None, "cpu", 2)
    assert str(cpu) == "attempt 4, CPU, batches in 2 parts"


def test_a_node_with_a_broken_gpu_is_avoided() -> None:
    def broken(node: str) -> Outcome:
        return Outcome(Cause.GPU_FAULT, "", node=node)

    first = SPOT.after(broken("node-1"), RetryPlan())
    second = first.after(Outcome(Cause.PREEMPTED, "", node="node-2"), RetryPlan())
    third = second.after(broken("node-3"), RetryPlan())
    assert (first.avoided, second.avoided, third.avoided) == (("node-1",), ("node-1",), ("node-1", "node-3"))
    assert str(third).endswith("not on node-1, node-3")


def test_a_node_is_avoided_once_and_only_in_its_pool() -> None:
    broken = Outcome(Cause.GPU_FAULT, "", node="node-1")
    plan = RetryPlan(escalate_to="ondemand", escalate_after=3)
    first = Attempt(gpu_pool="spot").after(broken, plan)
    assert first
    second = first.after(broken, plan)
    assert second and second.avoided == ("node-1",)
    third = second.after(broken, plan)
    assert third and (third.gpu_pool, third.avoided) == ("ondemand", ())


def test_an_attempt_is_read_back_from_its_pod() -> None:
    attempt = Attempt(4, "spot", memory_factor=2, reclaims=2, ooms=1, avoided=("node-1",))
    labels = {"trainyard.dev/attempt": "4", "trainyard.dev/gpu-pool": "spot"}
    pod = {"metadata": {"labels": labels, "annotations": {ANNOTATION: attempt.annotation()}}}
    assert Attempt.of_pod(pod) == attempt


def test_a_pod_of_a_newer_release_is_read_after_a_rollback() -> None:
    labels = {"trainyard.dev/attempt": "3", "trainyard.dev/gpu-pool": "spot"}
    annotations = {ANNOTATION: '{"reclaims": 2, "of_tomorrow": true}'}
    found = Attempt.of_pod({"metadata": {"labels": labels, "annotations": annotations}})
    assert found == Attempt(3, "spot", reclaims=2)
    assert "avoided" not in found.annotation(), "an older release would not know it"


def test_a_pod_of_an_older_release_has_labels_only() -> None:
    labels = {"trainyard.dev/attempt": "3", "trainyard.dev/gpu-pool": "none"}
    assert Attempt.of_pod({"metadata": {"labels": labels, "annotations": {}}}) == Attempt(3, None)
