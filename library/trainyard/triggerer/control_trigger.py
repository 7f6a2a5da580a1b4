"""`ControlTrigger`: the triggerer's side of control tasks."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from trainyard.airflow_compat import SKIP_KEY
from trainyard.failures import Cause, TaskFailed
from trainyard.triggerer.base import TriggererTask
from trainyard.triggerer.control import PACKAGE, ControlFunction


class ControlTrigger(TriggererTask):
    """Call one function of the library.

    Args:
        request: `function`, `kind`, `arguments` and `timeout_seconds` of the operator.
    """

    has_lineage = False  # nothing is read or made but by `promote`, which says so itself

    async def work(self) -> Any:
        """Call the function; note which tasks are skipped because of its result."""
        function = await asyncio.to_thread(load, self.request["function"])
        seconds = self.request["timeout_seconds"]
        try:
            async with asyncio.timeout(seconds) as limit:
                result = await function.function(self.context, **self.request["arguments"])
        except TimeoutError as error:
            if not limit.expired():
                raise
            message = f"not done within {seconds:.0f} s; raise timeout"
            raise TaskFailed(Cause.DEADLINE, message, retry=True) from error
        self.log.info("result: %s", result)
        if self.request["kind"] == "branch":
            await self.push({SKIP_KEY: {"followed": followed(self.task, result)}})
        elif self.request["kind"] == "short_circuit":
            # Also when nothing is skipped: a try before it may have left another answer.
            await self.push({SKIP_KEY: {"skipped": [] if result else skipped(self.task)}})
        return result


def load(path: str) -> ControlFunction:
    """The control task's function with that import path.

    Raises:
        ValueError: there is none in this library.
    """
    module, _, name = path.rpartition(".")
    if not path.startswith(PACKAGE):
        raise ValueError(f"{path} is not in the library, the only place from which the triggerer takes tasks")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no {path} in the triggerer's image: {error}") from error
    if not isinstance(found, ControlFunction):
        raise ValueError(f"{path} is no control task")
    return found


def followed(task: Any, branches: str | Iterable[str] | None) -> list[str]:
    """Ids of the tasks directly after `task` that a branch leads to: those that `branches` names, and joins.

    Args:
        task: the branching task, in serialized form.
        branches: ids of tasks or groups; of a group, its first tasks are followed.

    Raises:
        ValueError: there is no such task or group.
    """
    dag, wanted = task.dag, set[str]()
    for branch in [branches] if isinstance(branches, str) else branches or ():
        if branch in dag.task_group_dict:
            wanted |= {root.task_id for root in dag.task_group_dict[branch].roots}
        elif branch in dag.task_dict:
            wanted.add(branch)
        else:
            raise ValueError(f"{task.task_id} chose {branch!r}, which is no task or group of {dag.dag_id}")
    # A task after one that is followed goes on as well, although it is directly after the branch too.
    for task_id in list(wanted):
        wanted |= dag.get_task(task_id).get_flat_relative_ids(upstream=False)
    return [task_id for task_id in sorted(task.downstream_task_ids) if task_id in wanted]


def skipped(task: Any) -> list[str]:
    """Ids of the tasks directly after `task`, but for teardowns."""
    return [each for each in sorted(task.downstream_task_ids) if not _task(task, each).is_teardown]


def _task(task: Any, task_id: str) -> Any:
    tasks: Mapping[str, Any] = task.dag.task_dict
    return tasks[task_id]
