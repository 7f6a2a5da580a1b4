"""Pods that exceed a limit of their own, as a real kubelet ends them: the cause, and what raises it."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client
from pods import scratch, scratch_pod, wait_until
from trainyard.failures import Cause
from trainyard.training.outcomes import classify, has_ended

WRITE = "import time; open('{file}', 'wb').write(bytes(64 << 20)); time.sleep(600)"
# A file in memory that is larger than its file system: whoever touches its pages gets SIGBUS.
TOUCH = """
import mmap, os
file = os.open("/dev/shm/x", os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 64 << 20)
mmap.mmap(file, 64 << 20).write(bytes(64 << 20))
"""
SMALL = {"cpu": "10m", "memory": "128Mi"}


@pytest.mark.parametrize(
    ("script", "volumes", "storage", "key"),
    [
        (WRITE.format(file="/tmp/x"), {"tmp": {"sizeLimit": "8Mi"}}, "1Gi", "`scratch_size`"),
        (WRITE.format(file="/tmp/x"), {"tmp": {}}, "8Mi", "limits.ephemeral-storage"),
        (TOUCH, {"tmp": {}, "shm": {"medium": "Memory", "sizeLimit": "8Mi"}}, "1Gi", "`shared_memory_size`"),
    ],
    ids=["scratch", "ephemeral-storage", "shared-memory"],
)
def test_a_limit_that_is_exceeded_is_named(
    core: client.CoreV1Api,
    platform: dict[str, Any],
    script: str,
    volumes: dict[str, Any],
    storage: str,
    key: str,
    request: pytest.FixtureRequest,
) -> None:
    training = platform["training"]
    places = {"tmp": "/tmp", "shm": "/dev/shm"}
    pod = scratch_pod(
        training,
        f"e2e-{request.node.callspec.id}",
        {
            "name": "trainer",
            "command": ["python3", "-c", script],
            "resources": {"requests": SMALL, "limits": {**SMALL, "ephemeral-storage": storage}},
            "volumeMounts": [{"name": name, "mountPath": places[name]} for name in volumes],
        },
        restartPolicy="Never",
        volumes=[{"name": name, "emptyDir": limits} for name, limits in volumes.items()],
    )
    namespace, name = training["namespace"], pod["metadata"]["name"]

    def ended() -> dict[str, Any] | None:
        found = core.api_client.sanitize_for_serialization(core.read_namespaced_pod(name, namespace))
        return found if has_ended(found) else None

    with scratch(core, pod, namespace):
        # A busy kubelet measures volumes rarely.
        outcome = classify(wait_until("the pod to end", ended, seconds=400))
    assert outcome.cause is Cause.STORAGE, outcome.message
    assert key in outcome.message
