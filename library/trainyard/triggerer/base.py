"""The two bases of tasks that start and end in the triggerer: they may wait for long, and need no worker.

The operator lies in a module that DAG files import, the trigger in another, which may import what DAG files
should not (a Kubernetes client):

    class CountOperator(TriggererOperator):
        template_fields = ("table",)

        def __init__(self, *, table: str, timeout: timedelta = timedelta(minutes=5), **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.table = table
            trigger = "trainyard.count_trigger.CountTrigger"
            self.start_trigger_args = start_args(trigger, {"table": table}, timeout + TRIGGERER_PATIENCE)


    class CountTrigger(TriggererTask):
        async def work(self) -> dict[str, Any]:
            rows = await count(self.request["table"])
            if not rows:
                raise TaskFailed("bad_data", f"{self.request['table']} has no rows")
            return {"rows": rows}

`work` runs again when the triggerer restarts, so it has to find what it created before: by a name made of
`self.identity`. Override `abandon` to undo the work of a task that a user ended, `reads` to report to lineage
what the task reads, and `rendered` for more than templates. For a few requests without a wait see `control`.
"""

from __future__ import annotations

import asyncio
import importlib
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, MutableMapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

from airflow.configuration import conf
from airflow.sdk import BaseOperator, TaskInstanceState
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.triggers.base import (
    BaseTrigger,
    StartTriggerArgs,
    TaskSkippedEvent,
    TriggerEvent,
)

from trainyard import lineage
from trainyard.airflow_compat import (
    atask_states,
    failed_event,
    is_mapped_over,
    mapped_group,
    push_xcom,
    pushes_xcom,
    runs_without_triggerer,
    success_event,
)
from trainyard.failures import Cause, TaskFailed
from trainyard.naming import TaskIdentity
from trainyard.platform import PlatformError
from trainyard.triggerer.templates import TemplateError, as_template, render

# How much longer a short task may wait for a triggerer, as long as none runs.
TRIGGERER_PATIENCE = timedelta(hours=1)
STORE_SECONDS = 600  # how long the event that ends a task may take to be stored
STORE_POLL_SECONDS = 1

# Arguments of all operators that only a worker minds, and what to use in their place. By the name under which
# Airflow keeps each.
_ON_A_WORKER = {
    "execution_timeout": ("execution_timeout", "deadline= of a training step, timeout= of other tasks"),
    "pre_execute": ("_pre_execute_hook", "a task before it"),
    "post_execute": ("_post_execute_hook", "a task after it"),
    "on_execute_callback": ("on_execute_callback", "a task before it"),
    "executor_config": ("executor_config", "container_resources= and env_vars= of a training step"),
    "run_as_user": ("run_as_user", "training.podSecurityContext of the chart's values"),
    "max_active_tis_per_dag": ("max_active_tis_per_dag", "max_active_runs= of the DAG, or the pool's GPUs"),
    "max_active_tis_per_dagrun": ("max_active_tis_per_dagrun", "the pool's GPUs"),
}


def forget_default_timeout(values: MutableMapping[str, Any]) -> None:
    """Take away the time limit that airflow.cfg has for every task, which is a worker's like a task's own.

    Args:
        values: all arguments of a task.
    """
    if values.get("execution_timeout") == conf.gettimedelta("core", "default_task_execution_timeout"):
        values["execution_timeout"] = None


def refuse_workers_arguments(name: str, values: Mapping[str, Any]) -> None:
    """Refuse arguments which nothing minds in the triggerer, that they are not ignored.

    Args:
        name: the task.
        values: all arguments, by the name under which Airflow keeps each.

    Raises:
        TypeError: one of them is set.
    """
    for argument, (kept_as, instead) in _ON_A_WORKER.items():
        if values.get(argument) or values.get(kept_as):
            raise TypeError(
                f"{name}: {argument} has no effect, as the task runs in the triggerer; use {instead} (and "
                f"{argument}=None where default_args set it)"
            )


def start_args(trigger: str, request: Mapping[str, Any], timeout: timedelta) -> StartTriggerArgs:
    """What the scheduler needs to start a task's trigger: the operator's `start_trigger_args`.

    Args:
        trigger: class path of a `TriggererTask`.
        request: its arguments, in which outputs of other tasks become templates.
        timeout: when to end a task whose trigger cannot even begin; the trigger itself minds its own time.
    """
    return StartTriggerArgs(
        trigger_cls=trigger,
        trigger_kwargs={"request": as_template(request)},
        next_method="execute_complete",
        timeout=timeout,
    )


class TriggererOperator(BaseOperator):
    """Base of operators whose task starts and ends in the triggerer, where there is one.

    Set `start_trigger_args` in `__init__`.
    """

    start_from_trigger = True
    start_trigger_args: StartTriggerArgs

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        forget_default_timeout(vars(self))
        refuse_workers_arguments(self.task_id, vars(self))

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Refuse to be mapped: each instance would start with the same arguments."""
        raise TypeError(f"{cls.__name__} cannot be mapped; put it into a mapped @task_group")

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Nothing: the trigger renders them, and a worker only ever sees the task to fail it."""

    def execute(self, context: Any) -> Any:
        """Run the task here, in `dag.test()` and `airflow tasks test`, which have no triggerer.

        A worker gets it only if it was queued as another operator before an upgrade: that try fails, and the
        next one starts in the triggerer.
        """
        if not runs_without_triggerer():
            raise AirflowException(f"{self.task_id} starts in the triggerer and cannot run on a worker")
        module, _, name = self.start_trigger_args.trigger_cls.rpartition(".")
        trigger: TriggererTask = getattr(importlib.import_module(module), name)(
            **(self.start_trigger_args.trigger_kwargs or {})
        )
        trigger.is_here = True
        trigger.task_instance = context["ti"]
        trigger.render_template_fields(context)
        return asyncio.run(trigger.run_here())

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> NoReturn:
        """Fail the task for good, where the triggerer could not: see `TriggererTask._failure`."""
        raise AirflowFailException(f"{event['cause']}: {event['message']}")


class TriggererTask(BaseTrigger):
    """Base of triggers that run one try of a task from beginning to end.

    What `work` returns is the XCom `return_value`; each key of an object is one too, and None leaves none. A
    failure leaves the XCom `failure`. The task's outlets are reported when it succeeds.

    Args:
        request: the operator's arguments, not rendered yet: see `start_args`.
    """

    # Whether lineage gets an event for the task's start and one for its end.
    has_lineage = True
    # Whether it runs without a triggerer. The database of such a process is its own: to the release's, what
    # it makes would be nobody's.
    is_here = False

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__()
        self.request = dict(request)
        self.context: Mapping[str, Any] = {}
        self.render_error: Exception | None = None

    @abstractmethod
    async def work(self) -> Any:
        """Do what `request`, which is rendered by now, asks for, and return the task's result.

        Raises:
            TaskFailed: it did not succeed.
            AirflowFailException, ValueError: an argument is wrong, which no other try can cure.
            AirflowSkipException: the task is skipped.
            Exception: anything else; another try may succeed.
        """

    async def abandon(self) -> None:
        """Undo what `work` began: a user ended or cleared the task, and the next try may have begun."""

    def reads(self) -> Iterable[Any]:
        """URIs of what the task reads, as far as they are known; what is no URI does not count."""
        return ()

    def rendered(self, context: Any) -> dict[str, Any]:
        """The request without templates. Errors are those of `work`."""
        return render(self.request, context, run_key=self.identity.run_key())

    @property
    def identity(self) -> TaskIdentity:
        """Which try of which task this is."""
        ti = self.task_instance
        if ti is None:
            raise RuntimeError("the trigger belongs to no task instance")
        group = mapped_group(self.task) if self.task is not None else ""
        uid = "" if self.is_here else str(ti.id)
        return TaskIdentity(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number, group, uid)

    async def push(self, xcoms: Mapping[str, Any], mapped_length: int | None = None) -> None:
        """Push XComs; `mapped_length` see `push_xcom`."""
        task = self.identity
        await push_xcom(task.dag_id, task.run_id, task.task_id, task.map_index, xcoms, mapped_length)

    async def on_kill(self) -> None:
        """Abandon the work if a user ended the task.

        Airflow also calls this for a trigger that another triggerer has taken over, because this one did not
        answer for a while: the other one's work must stay.
        """
        if await self._is_deferred():
            self.log.info("another triggerer goes on with this, or the next try does")
            return
        await self.abandon()

    async def stored(self) -> bool:
        """Wait until Airflow has stored the event that ends the task; return whether it has."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STORE_SECONDS):
                while await self._is_deferred():
                    await asyncio.sleep(STORE_POLL_SECONDS)
                return True
        return False

    async def _is_deferred(self) -> bool:
        task = self.identity
        states = await atask_states(
            task.dag_id, task.run_id, task_ids=[task.task_id], map_index=task.map_index
        )
        key = task.task_id if task.map_index < 0 else f"{task.task_id}_{task.map_index}"
        return bool(states.get(key) == TaskInstanceState.DEFERRED)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, from which Airflow makes the trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"request": self.request}

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Render the request. An error is kept for `run`, which fails the task in good order."""
        self.context = context
        try:
            self.request = self.rendered(context)
        except (TemplateError, ValueError) as error:
            self.render_error = error

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Run the task; yields the one event that ends it."""
        if self.has_lineage:
            await lineage.started(self.identity, self.reads())
        try:
            result = await self._result()
            await self._push_result(result)
        except AirflowSkipException as skipped:
            self.log.info("skipped: %s", skipped)
            yield TaskSkippedEvent()
        except TaskFailed as failed:
            if self.has_lineage:
                await lineage.failed(self.identity, self.reads(), f"{failed.cause}: {failed.message}")
            yield await self._failure(failed)
        else:
            if self.has_lineage:
                await lineage.ended(self.identity, self.reads(), result)
            yield success_event(self.task, self.context.get("outlet_events"))

    async def run_here(self) -> Any:
        """Run the task without a triggerer, and return its result.

        Raises:
            AirflowSkipException: the task is skipped.
            AirflowFailException: it did not succeed, and no other try can cure that.
            AirflowException: another try may succeed.
        """
        try:
            result = await self._result()
        except TaskFailed as failed:
            await self._push_failure(failed)
            error = AirflowException if failed.retry else AirflowFailException
            raise error(f"{failed.cause}: {failed.message}") from failed
        # Airflow pushes what a task returns.
        if isinstance(result, Mapping) and pushes_xcom(self.task):
            await self.push(result)
        return result

    async def _result(self) -> Any:
        """What `work` returns. Whatever goes wrong is a TaskFailed, and a skip an AirflowSkipException."""
        try:
            if self.render_error:
                raise self.render_error
            return await self.work()
        except (TaskFailed, AirflowSkipException):
            raise
        except (TemplateError, PlatformError, ValueError, AirflowFailException) as error:
            raise TaskFailed(Cause.BAD_CONFIG, str(error)) from error
        except Exception as error:
            self.log.exception("the trigger failed")
            raise TaskFailed(Cause.PLATFORM, f"{type(error).__name__}: {error}", retry=True) from error

    async def _push_result(self, result: Any) -> None:
        """Push what the task returned, and for a task that is mapped over it how long it is."""
        is_source = self.task is not None and self.identity.map_index < 0 and is_mapped_over(self.task)
        if self.task is not None and not pushes_xcom(self.task):
            if is_source:
                raise TaskFailed(
                    Cause.BAD_CONFIG, "a task is mapped over the result, so do_xcom_push=False cannot be"
                )
            return
        mapped_length = None
        if is_source:
            if not isinstance(result, list | dict):
                raise TaskFailed(Cause.BAD_RESULT, f"a task is mapped over {result!r}; return a list")
            mapped_length = len(result)
        if result is not None:
            keys = result if isinstance(result, Mapping) else {}
            await self.push({**keys, "return_value": result}, mapped_length)

    async def _failure(self, failed: TaskFailed) -> TriggerEvent:
        """The event that fails the task, or its try."""
        told = await self._push_failure(failed)
        # Without the extension only a worker can end what has tries left, in `execute_complete`.
        return failed_event(final=not failed.retry) or TriggerEvent(told)

    async def _push_failure(self, failed: TaskFailed) -> dict[str, Any]:
        self.log.error("%s: %s", failed.cause, failed.message)
        told = {"cause": failed.cause, "message": failed.message}
        await self.push({"failure": {**failed.details, **told}})
        return told
