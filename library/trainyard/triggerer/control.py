"""Control tasks: a few requests between two trainings, which start and end in the triggerer.

A control task is a function of this library with a decorator, which DAG files call as they call a `@task`:

    @control_task(retries=5)
    async def count(context: Context, table: str, *, at_least: int = 1) -> dict[str, Any]:
        ...

    counted = count(load.output["table"], at_least="{{ params.rows }}", task_id="count_rows")
    report(counted["rows"])

The function gets Airflow's context and its arguments, in which templates and outputs of other tasks are
values by now. What it returns is the XCom `return_value`, and each key of an object is one too. All triggers
share one event loop: what blocks belongs into `asyncio.to_thread`, and large imports into another process. A
triggerer that restarts calls the function again, so it must be safe to repeat.

Raise `TaskFailed` to fail and `AirflowSkipException` to be skipped; asset events go to
`context["outlet_events"]`. Functions of DAG files stay `@task`s: the triggerer does not import DAG files.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Literal, NoReturn

from airflow.sdk.definitions.xcom_arg import XComArg

from trainyard.airflow_compat import mapped_group
from trainyard.triggerer.base import TRIGGERER_PATIENCE, TriggererOperator, start_args

TRIGGER = "trainyard.triggerer.control_trigger.ControlTrigger"
PACKAGE = "trainyard."  # functions elsewhere are none of the triggerer's
TIMEOUT = timedelta(minutes=5)

Kind = Literal["task", "branch", "short_circuit"]
Function = Callable[..., Awaitable[Any]]


class ControlOperator(TriggererOperator):
    """Call a control task's function in the triggerer.

    Args:
        function: the function's import path.
        arguments: what it gets beside the context; may hold templates and outputs of other tasks.
        timeout: how long it may take.
        kwargs: as for any operator.
    """

    kind: Kind = "task"
    template_fields = ("arguments",)
    template_fields_renderers = {"arguments": "json"}  # noqa: RUF012
    ui_color = "#fff2cc"

    def __init__(
        self, *, function: str, arguments: Mapping[str, Any], timeout: timedelta = TIMEOUT, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if self.kind != "task" and mapped_group(self):
            # Airflow looks for what they skip under no map index (NotPreviouslySkippedDep in 3.3.2).
            raise TypeError(
                f"{self.task_id} would skip nothing, as it is in a mapped task group; there write a"
                " @task.branch or @task.short_circuit, which run on a worker"
            )
        self.function = function
        self.arguments = dict(arguments)
        self.timeout = timeout
        request = {
            "function": function,
            "kind": self.kind,
            "arguments": self.arguments,
            "timeout_seconds": timeout.total_seconds(),
        }
        self.start_trigger_args = start_args(TRIGGER, request, timeout + TRIGGERER_PATIENCE)


class BranchOperator(ControlOperator):
    """A control task that returns the ids of the tasks or groups to go on with, directly after it.

    The other tasks directly after it are skipped; what comes later follows its trigger rule.
    """

    kind = "branch"
    inherits_from_skipmixin = True  # the scheduler looks only then whether a task was skipped by this one


class ShortCircuitOperator(ControlOperator):
    """A control task that returns whether to go on; if not, the tasks directly after it are skipped.

    What comes later follows its trigger rule, as with Airflow's `ignore_downstream_trigger_rules=False`.
    """

    kind = "short_circuit"
    inherits_from_skipmixin = True


OPERATORS = {each.kind: each for each in (ControlOperator, BranchOperator, ShortCircuitOperator)}


class ControlFunction:
    """A function that is a task of each DAG in which it is called.

    Args:
        function: what runs in the triggerer; its first parameter is the context.
        kind: what follows from its result.
        defaults: arguments of the operator, which a call may replace.
    """

    def __init__(self, function: Function, kind: Kind, defaults: Mapping[str, Any]) -> None:
        self.function = function
        self.kind: Kind = kind
        self.defaults = dict(defaults)
        self.path = f"{function.__module__}.{function.__qualname__}"
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self._signature = inspect.signature(function)

    def __call__(self, *args: Any, **kwargs: Any) -> XComArg:
        """Make the task; return its output.

        Args:
            args: the function's arguments, without the context.
            kwargs: the function's as well; others are the operator's, such as `task_id` and `trigger_rule`.
        """
        own = {name: value for name, value in kwargs.items() if name in self._signature.parameters}
        bound = self._signature.bind(None, *args, **own)
        _, *given = bound.arguments.items()
        options = {name: value for name, value in kwargs.items() if name not in own}
        operator = OPERATORS[self.kind](
            function=self.path,
            arguments=dict(given),
            **{"task_id": self.__name__, **self.defaults, **options},
        )
        return operator.output

    def override(self, **_: Any) -> NoReturn:
        """Refuse what a `@task` has."""
        raise TypeError(
            f"{self.__name__}.override: a control task takes the operator's arguments in its call, as "
            f"{self.__name__}(..., task_id=..., trigger_rule=...)"
        )

    def partial(self, **_: Any) -> NoReturn:
        """Refuse to be mapped."""
        self._refuse_mapping("partial")

    def expand(self, **_: Any) -> NoReturn:
        """Refuse to be mapped."""
        self._refuse_mapping("expand")

    def expand_kwargs(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to be mapped."""
        self._refuse_mapping("expand_kwargs")

    def _refuse_mapping(self, how: str) -> NoReturn:
        raise TypeError(
            f"{self.__name__}.{how}: a control task cannot be mapped; call it in a mapped @task_group, or "
            f"once for each, as {self.__name__}(..., task_id=...)"
        )


def control_task(kind: Kind = "task", **defaults: Any) -> Callable[[Function], ControlFunction]:
    """Make a control task of a function of this library; see the module.

    Args:
        kind: `branch` or `short_circuit` for a function that says which tasks are skipped.
        defaults: arguments of the operator, which a call may replace.
    """
    return lambda function: ControlFunction(function, kind, defaults)
