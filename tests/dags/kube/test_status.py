"""Helpers that read Kubernetes objects."""

from __future__ import annotations

from typing import Any

import pytest
from trainyard.kube.status import condition, container_status, event_line


@pytest.mark.parametrize(
    ("counted", "suffix"),
    [({}, ""), ({"count": 1}, ""), ({"count": 3}, " (x3)"), ({"series": {"count": 7}, "count": 3}, " (x7)")],
)
def test_an_event_is_one_line_with_its_count(counted: dict[str, Any], suffix: str) -> None:
    event = {"reason": "BackOff", "message": "restarting", **counted}
    assert event_line(event) == f"BackOff: restarting{suffix}"


@pytest.mark.parametrize("status", [{}, {"conditions": None, "containerStatuses": None}])
def test_an_object_without_status_has_no_condition(status: dict[str, Any]) -> None:
    assert condition({"status": status}, "Ready") == {}
    assert container_status({"status": status}) == {}


def test_conditions_and_containers_are_found_by_name() -> None:
    statuses = [{"name": "sidecar", "restartCount": 1}, {"name": "trainer", "restartCount": 2}]
    conditions = [{"type": "Initialized"}, {"type": "Ready", "status": "True"}]
    pod = {"status": {"containerStatuses": statuses, "conditions": conditions}}
    assert container_status(pod)["restartCount"] == 2
    assert container_status(pod, "sidecar")["restartCount"] == 1
    assert condition(pod, "Ready")["status"] == "True"
