"""Messages of the scheduler, the quota and the kubelet about a waiting pod, explained in a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from trainyard.training.pending import (
    WaitKind,
    fits_no_node,
    from_quota,
    from_scheduler,
    waiting_kind,
    why_pending,
)

GPU = "nvidia.com/gpu"
NO_VICTIM = " preemption: 0/6 nodes are available: 1 No preemption victims found for incoming pod."
SPOT = "1 node(s) had untolerated taint {trainyard.dev/spot: true}"
MASTER = "1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }"
OTHER = "2 node(s) didn't match Pod's node affinity/selector"


# Of Kubernetes 1.35, with one node that has not as much memory.
TOO_LARGE = (
    "0/5 nodes are available: 1 Insufficient memory, 4 node(s) had untolerated taint(s). no new claims to "
    "deallocate, preemption: 0/5 nodes are available: 5 Preemption is not helpful for scheduling."
)


def pod(*, scheduled: str = "", waiting: dict[str, str] | None = None, node: str = "") -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": scheduled}
    status = {"name": "trainer", "state": {"waiting": waiting or {}}}
    return {
        "spec": {"containers": [{"image": "i:1"}], **({"nodeName": node} if node else {})},
        "status": {
            "conditions": [condition] if scheduled else [],
            "containerStatuses": [status] if waiting else [],
        },
    }


@pytest.mark.parametrize(
    ("reasons", "kind", "sentence"),
    [
        (
            [f"2 Insufficient {GPU}", MASTER, SPOT, OTHER],
            WaitKind.GPU,
            "no GPU free in pool ondemand: 2 of 2 nodes are busy",
        ),
        ([f"1 Insufficient {GPU}", OTHER], WaitKind.GPU, "no GPU free in pool ondemand: 1 of 1 node is busy"),
        (
            [f"1 Insufficient {GPU}", "1 node(s) were unschedulable", OTHER],
            WaitKind.GPU,
            "no GPU free in pool ondemand: 1 of 1 node is busy, 1 node is cordoned or not ready",
        ),
        (
            ["2 node(s) had untolerated taint {node.kubernetes.io/unreachable: }", OTHER],
            WaitKind.GPU,
            "no node of pool ondemand can be used, 2 nodes are cordoned or not ready",
        ),
        (
            [MASTER, SPOT, "3 node(s) didn't match Pod's node affinity/selector"],
            WaitKind.GPU,
            "there is no node of pool ondemand: 2 nodes have a taint that it does not tolerate "
            "(node-role.kubernetes.io/control-plane, trainyard.dev/spot), 3 nodes are of other kinds",
        ),
        (
            ["1 Insufficient memory", "2 Insufficient cpu", OTHER],
            WaitKind.ROOM,
            "no node of pool ondemand has room: too little memory on 1 node, cpu on 2 nodes",
        ),
        (
            ["1 node(s) had volume node affinity conflict", OTHER],
            WaitKind.VOLUME,
            "no node can use its volumes: node(s) had volume node affinity conflict",
        ),
    ],
)
def test_what_a_gpu_pod_waits_for(reasons: list[str], kind: WaitKind, sentence: str) -> None:
    message = f"0/6 nodes are available: {', '.join(reasons)}.{NO_VICTIM}"
    found = from_scheduler(message, "ondemand", GPU)
    assert (found.kind, found.reason) == (kind, f"{sentence} ({message})")
    assert found.lacks_gpu == (kind is not WaitKind.VOLUME)


def test_what_a_cpu_pod_waits_for() -> None:
    taints = "0/2 nodes are available: 2 node(s) had untolerated taint(s)."
    assert from_scheduler(taints).kind is WaitKind.TAINT
    room = from_scheduler("0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient memory.")
    assert room.reason.startswith("no node has room: too little cpu on 1 node, memory on 2 nodes")
    assert not room.lacks_gpu
    unbound = from_scheduler('persistentvolumeclaim "datasets" not found')
    assert (unbound.kind, unbound.lacks_gpu) == (WaitKind.VOLUME, False)


def test_a_full_quota() -> None:
    message = (
        'pods "x" is forbidden: exceeded quota: trainyard-training, requested: requests.nvidia.com/gpu=1, '
        "used: requests.nvidia.com/gpu=3, limited: requests.nvidia.com/gpu=3"
    )
    full = from_quota(message, GPU)
    assert full.reason.startswith("no GPU left in quota trainyard-training: 3 of 3 GPUs in use (exceeded")
    assert full.kind is WaitKind.QUOTA and full.lacks_gpu
    pods = from_quota("exceeded quota: q, requested: pods=1, used: pods=9, limited: pods=9", GPU)
    assert pods.reason.startswith("no room in quota q: 9 of 9 pods in use")
    assert not pods.lacks_gpu, "a CPU pod would find no room either"
    assert from_quota("exceeded quota", GPU).kind is WaitKind.QUOTA


def test_the_scheduler_comes_before_all_else_and_scaling_is_told() -> None:
    waiting = pod(scheduled=f"0/1 nodes are available: 1 Insufficient {GPU}.")
    scaling = {"type": "Normal", "reason": "TriggeredScaleUp", "message": "pool 0->1"}
    found = why_pending(waiting, [scaling], pool="spot", resource=GPU)
    assert found.reason.startswith("no GPU free in pool spot")
    assert found.reason.endswith("; TriggeredScaleUp: pool 0->1")


def test_on_its_node_a_pod_waits_for_volumes_and_images() -> None:
    event = {"type": "Warning", "reason": "FailedMount", "message": "no such volume", "count": 7}
    volume = why_pending(pod(waiting={"reason": "ContainerCreating"}, node="n"), [event])
    assert (volume.kind, volume.reason) == (WaitKind.VOLUME, "on node n: FailedMount: no such volume")
    before = {"type": "Warning", "reason": "FailedScheduling", "message": "0/5 nodes are available"}
    starting = why_pending(pod(waiting={"reason": "ContainerCreating"}, node="n"), [before])
    assert starting.reason == "on node n: ContainerCreating"
    image = why_pending(pod(waiting={"reason": "ErrImagePull", "message": "not found"}, node="n"))
    assert (image.kind, image.reason) == (
        WaitKind.IMAGE,
        "image i:1 cannot be pulled to node n (ErrImagePull not found)",
    )
    assert why_pending(pod(node="n")).kind is WaitKind.START
    assert why_pending(pod()).reason == "the scheduler has not processed it yet"


def test_alternating_pull_errors_are_one_reason_to_wait() -> None:
    kinds = {waiting_kind(pod(waiting={"reason": r})) for r in ("ErrImagePull", "ImagePullBackOff")}
    assert kinds == {WaitKind.IMAGE}


def test_what_is_too_large_for_any_node_is_not_what_waits_for_room() -> None:
    assert fits_no_node(pod(scheduled=TOO_LARGE))
    full = TOO_LARGE.replace("5 Preemption", "1 No preemption victims found for incoming pod, 4 Preemption")
    assert not fits_no_node(pod(scheduled=full))
    assert not fits_no_node(pod(scheduled=TOO_LARGE.replace("memory", "cpu")))
    assert not fits_no_node(pod(scheduled=TOO_LARGE), [{"reason": "TriggeredScaleUp"}])
    assert fits_no_node(pod(scheduled=TOO_LARGE), [{"reason": "NotTriggerScaleUp"}])
    cordoned = TOO_LARGE.replace("4 node(s) had", "1 node(s) were unschedulable, 3 node(s) had")
    assert not fits_no_node(pod(scheduled=cordoned)), "it may be large enough"
