"""What ends a task in the triggerer."""

from __future__ import annotations

from airflow.triggers.base import BaseTaskEndEvent, TaskFailedEvent, TriggerEvent
from trainyard.airflow_compat import FINAL


def is_final_failure(event: TriggerEvent) -> bool:
    """Whether the task fails whatever tries are left: by itself, or in a process without it on a worker."""
    if isinstance(event, TaskFailedEvent):
        return bool((event.xcoms or {}).get(FINAL))
    return not isinstance(event, BaseTaskEndEvent)
