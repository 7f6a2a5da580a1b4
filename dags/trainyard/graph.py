"""Questions about the graph of a DAG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import DAG


def last_tasks(dag: DAG) -> list[Any]:
    """The tasks with which a DAG ends, a clean-up aside: they decide what becomes of a run."""
    return [
        task
        for task in dag.tasks
        if not task.is_teardown and all(follower.is_teardown for follower in task.downstream_list)
    ]
