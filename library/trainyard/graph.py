"""Helpers that read a DAG's graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import DAG


def last_tasks(dag: DAG) -> list[Any]:
    """The last tasks of a DAG, without teardowns. Their states decide the state of a run."""
    return [
        task
        for task in dag.tasks
        if not task.is_teardown and all(follower.is_teardown for follower in task.downstream_list)
    ]
