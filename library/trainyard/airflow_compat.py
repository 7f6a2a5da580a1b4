"""Every private or undocumented Airflow API that the library uses, in one place.

Tried on Airflow 3.3.2. tests/dags/test_airflow_compat.py has a contract test for each function: run it first
when Airflow is upgraded.

These classes extend what Airflow does not document as a base, and have their contract tests there or beside
their own: `training.operator.TrainingPodPartial` (`OperatorPartial.expand`, `.expand_kwargs`),
`registry.approval.PromotionApproval` (`ApprovalOperator.execute_complete`, `.skip`),
`triggerer.control.BranchOperator` and `ShortCircuitOperator` (`inherits_from_skipmixin`).

Airflow is imported inside functions where the import is slow or is not needed to
parse DAG files.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cache, partial
from importlib.abc import MetaPathFinder
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.dag_processing.importers import AbstractDagImporter
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.sdk.bases.operator import OperatorPartial
    from airflow.sdk.execution_time.hitl import HITLUser
    from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent
    from jinja2 import Environment
    from sqlalchemy.orm import Session, SessionTransaction

    PartialT = TypeVar("PartialT", bound=OperatorPartial)

AIRFLOW_VERSION = "3.3.2"
# Under this key the event that ends a task in the triggerer carries its asset events; see `extend_triggers`.
OUTLETS = "trainyard_outlets"
# Likewise for a failure that no other try can cure.
FINAL = "trainyard_final"
# XCom of a branch or short circuit, which the scheduler reads before it starts the tasks directly after it.
SKIP_KEY = "skipmixin_key"
# What the functions add that are to be called at the start of every process, for `log_unsupported`.
TRIGGER_EXTENSION = "asset events and final failures of tasks that end in the triggerer"
POLL_EXTENSION = "shorter polls of the triggerer"
CANCEL_EXTENSION = "clean-up of what a user ended"
LAST_LINES_EXTENSION = "last lines of triggers in the logs of their tasks"
END_EXTENSION = "end of runs as a person told it"
CALLBACK_EXTENSION = "callbacks of versioned bundles"
ROLE_EXTENSION = "roles of teams"
ROOM_EXTENSION = "room in the triggerer beside training"
_TRIGGER_MODELS = "airflow.models.trigger"
_MARK_TASKS = "airflow.api.common.mark_tasks"
_TRIGGERER = "airflow.jobs.triggerer_job_runner"
_DAG_PROCESSOR = "airflow.dag_processing.manager"
_DAG_STORE = "airflow.dag_processing.collection"
POLL_SECONDS = 0.25  # of the triggerer; see `shorten_triggerer_polls`
KEPT_LOGS = 100  # where the triggers log faster than the triggerer reads; see `keep_last_lines`
TRAINING_SHARE = 0.8  # of a triggerer's capacity; see `leave_room_in_triggerers`
_TRAINING = ("trainyard.training.trigger.TrainingPodTrigger", "trainyard.triggers.TrainingPodTrigger")
_CALLBACKS = "trainyard_after_commit"  # in `Session.info`
_MAX_INTEGER = 2**63
log = logging.getLogger(__name__)


def log_unsupported(what: str, function: str) -> None:
    """Report the exception that is being handled: the process goes on without `what`.

    An exception would end every component of an Airflow that may also serve other teams.
    """
    log.exception(
        "Trainyard: this process has no %s, because %s failed. Install a version of trainyard that supports "
        "this version of Airflow.",
        what,
        function,
    )


def template_environment() -> Environment:
    """Airflow's Jinja environment for task templates, with its filters and macros."""
    from airflow.sdk.definitions._internal.templater import create_template_env

    return create_template_env()


def partial_as(partial_class: type[PartialT], base: OperatorPartial) -> PartialT:
    """What `BaseOperator.partial()` returned, as an object of a subclass of OperatorPartial."""
    base._expand_called = True  # else it would warn that it was never mapped
    return partial_class(operator_class=base.operator_class, kwargs=base.kwargs, params=base.params)


def mapped_arguments(mapped_task: Any) -> dict[str, Any]:
    """What `.expand()` or `.expand_kwargs()` of a task was given, as `triggerer.mapping` reads it."""
    return _expanded(mapped_task.expand_input)


def group_argument(value: Any) -> tuple[dict[str, Any], str] | None:
    """What a mapped task group was given, as `triggerer.mapping` reads it, and the name of one argument.

    None if the value is not the argument of such a group.
    """
    from airflow.sdk.definitions._internal.expandinput import MappedArgument

    return (_expanded(value._input), value._key) if isinstance(value, MappedArgument) else None


def _expanded(expand_input: Any) -> dict[str, Any]:
    from airflow.sdk.definitions._internal.expandinput import DictOfListsExpandInput

    if isinstance(expand_input, DictOfListsExpandInput):
        return {"product": [list(item) for item in expand_input.value.items()]}
    return {"kwargs": expand_input.value}


def mapped_group(task: Any) -> str:
    """The id of the mapped task group that a task is in, also in serialized form, or empty."""
    group = task.get_closest_mapped_task_group()
    return group.group_id if group else ""


def hitl_users(ids: Iterable[str]) -> list[HITLUser]:
    """Users with these ids, as the operators that wait for a person take them."""
    from airflow.sdk.execution_time.hitl import HITLUser

    return [HITLUser(id=user, name=user) for user in ids]


def task_states(
    dag_id: str, run_id: str, *, task_ids: Sequence[str] | None = None, map_index: int | None = None
) -> dict[str, Any]:
    """States of the task instances of a run, by task id; those of mapped tasks by `TASK_INDEX`.

    Works in workers and in the dag-processor's callbacks.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    asked: dict[str, Any] = {"dag_id": dag_id, "run_ids": [run_id]}
    if task_ids is not None:
        asked["task_ids"] = list(task_ids)
    if map_index is not None:
        asked["map_index"] = map_index
    return dict(RuntimeTaskInstance.get_task_states(**asked).get(run_id, {}))


async def atask_states(
    dag_id: str, run_id: str, *, task_ids: Sequence[str] | None = None, map_index: int | None = None
) -> dict[str, Any]:
    """`task_states` for triggers."""
    # Airflow has no asynchronous variant, and its triggerer answers a thread.
    return await asyncio.to_thread(task_states, dag_id, run_id, task_ids=task_ids, map_index=map_index)


def read_xcom(dag_id: str, run_id: str, task_id: str, key: str, map_index: int = -1) -> Any:
    """One XCom of one task instance; None where there is none."""
    from airflow.sdk.execution_time.xcom import XCom

    return XCom.get_one(key=key, dag_id=dag_id, task_id=task_id, run_id=run_id, map_index=map_index)


def read_own_xcom(ti_key: Any, key: str) -> Any:
    """An XCom of the task instance that an extra link belongs to."""
    from airflow.sdk.execution_time.xcom import XCom

    return XCom.get_value(ti_key=ti_key, key=key)


async def aread_xcom(dag_id: str, run_id: str, task_id: str, key: str, map_index: int = -1) -> Any:
    """`read_xcom` for triggers."""
    from airflow.sdk.execution_time.xcom import XCom

    return await XCom.aget_one(key=key, dag_id=dag_id, task_id=task_id, run_id=run_id, map_index=map_index)


async def push_xcom(
    dag_id: str,
    run_id: str,
    task_id: str,
    map_index: int,
    xcoms: Mapping[str, Any],
    mapped_length: int | None = None,
) -> None:
    """Push XComs of a task instance from a trigger.

    The `xcoms` of a TaskSuccessEvent would turn an object into its JSON text. `mapped_length` belongs to
    `return_value`: how many instances a task has that is mapped over it.
    """
    from airflow.sdk.execution_time.xcom import XCom

    where: dict[str, Any] = {
        "dag_id": dag_id,
        "task_id": task_id,
        "run_id": run_id,
        "map_index": map_index,
    }
    for key, value in xcoms.items():
        length = mapped_length if key == "return_value" else None
        await XCom.aset(key, value, **where, _mapped_length=length)


def runs_without_triggerer() -> bool:
    """Whether this process runs tasks itself, as `dag.test()` and `airflow tasks test` do.

    What triggers send there asynchronously is sent as tasks do: Airflow 3.3.2 has no `asend` for it.
    """
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.supervisor import InProcessSupervisorComms

    async def asend(self: Any, msg: Any) -> Any:
        return self.send(msg)

    if not hasattr(InProcessSupervisorComms, "asend"):
        InProcessSupervisorComms.asend = asend  # type: ignore[attr-defined]
    return isinstance(getattr(task_runner, "SUPERVISOR_COMMS", None), InProcessSupervisorComms)


def is_mapped_over(task: Any) -> bool:
    """Whether another task is mapped over the result of `task`.

    It is in serialized form, as triggers have it, and not mapped itself.
    """
    return next(task.iter_mapped_dependants(), None) is not None


def pushes_xcom(task: Any) -> bool:
    """Whether the author of a task, in serialized form, mapped or not, wants its result (`do_xcom_push`)."""
    given = getattr(task, "partial_kwargs", {})
    return bool(given.get("do_xcom_push", getattr(task, "do_xcom_push", True)))


def success_event(task: Any, outlet_events: Any) -> TaskSuccessEvent:
    """The event that ends a task in the triggerer, with its asset events as a worker would report them.

    Args:
        task: the task, in serialized form; None when it is not known.
        outlet_events: `outlet_events` of the task's context.
    """
    from airflow.sdk.execution_time.task_runner import _serialize_outlet_events
    from airflow.triggers.base import TaskSuccessEvent

    if not (outlets := list(task.outlets) if task else []):
        return TaskSuccessEvent()
    report = {"outlets": [_outlet(each) for each in outlets], "events": []}
    if outlet_events is not None:
        report["events"] = list(_serialize_outlet_events(outlet_events))
    return TaskSuccessEvent(xcoms={OUTLETS: report})  # type: ignore[dict-item]


def failed_event(*, final: bool) -> TaskFailedEvent | None:
    """The event that fails a try in the triggerer; a `final` one ends the task, whatever tries are left.

    None where this process cannot have a final one, as `extend_triggers` did not succeed in it.
    """
    from airflow.triggers.base import TaskFailedEvent

    if not final:
        return TaskFailedEvent()
    submit = getattr(sys.modules.get(_TRIGGER_MODELS), "handle_event_submit", None)
    extended = TaskFailedEvent in getattr(submit, "registry", ())
    return TaskFailedEvent(xcoms={FINAL: True}) if extended else None


def _outlet(outlet: Any) -> dict[str, Any]:
    """An outlet as the API's AssetProfile."""
    kind = type(outlet).__name__.removeprefix("Serialized")
    return {"name": getattr(outlet, "name", None), "uri": getattr(outlet, "uri", None), "type": kind}


def extend_triggers() -> None:
    """Let tasks that end in the triggerer report outlets and fail for good, and see what started their run.

    Airflow 3.3.2 registers no asset events for a task that a trigger ends, and only a worker can say that
    tries that are left are of no use. It tells a trigger neither which asset events nor which user started
    the run. To be called at the start of every Airflow process; it takes effect when the process imports
    the models of triggers, and costs nothing in those that do not.
    """
    _after_import(_TRIGGER_MODELS, _extend, TRIGGER_EXTENSION)


def shorten_triggerer_polls() -> None:
    """Let the triggerer look for new triggers, and report those that ended, four times a second.

    Airflow 3.3.2 does so once a second, and has no setting for it: a task that starts and ends in the
    triggerer waits 2 s for that alone. To be called at the start of every Airflow process, as
    `extend_triggers`.
    """
    _after_import(_TRIGGERER, _shorten_polls, POLL_EXTENSION)


def _shorten_polls(triggerer: Any) -> None:
    original = triggerer.anyio

    class Anyio:
        """`anyio` for the triggerer's loop, whose only delay is the pause between two polls."""

        def __getattr__(self, name: str) -> Any:
            return getattr(original, name)

        def move_on_after(self, delay: float, **options: Any) -> Any:
            return original.move_on_after(min(delay, POLL_SECONDS), **options)

    triggerer.anyio = Anyio()


def leave_room_in_triggerers(at_poll: Callable[[int, Session | None], None]) -> None:
    """Let training tasks take no more than `TRAINING_SHARE` of a triggerer's capacity.

    They wait for GPUs for hours. Airflow 3.3.2 assigns triggers by priority and age alone: a sweep larger
    than the capacity would keep every other task that starts in the triggerer from starting. To be called
    as `extend_triggers`.

    Args:
        at_poll: is called after each poll of a triggerer, with its capacity and the session of the poll, if
            the caller has one.
    """
    _after_import(_TRIGGER_MODELS, partial(_leave_room, at_poll=at_poll), ROOM_EXTENSION)


def unassigned_triggers(session: Session | None = None) -> tuple[int, datetime | None]:
    """How many triggers no triggerer has taken, and when the oldest one was made."""
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session
    from sqlalchemy import func, select

    unassigned = select(func.count(), func.min(Trigger.created_date)).where(Trigger.triggerer_id.is_(None))
    with nullcontext(session) if session else create_session() as database:
        number, oldest = database.execute(unassigned).one()
    return number, oldest


def _leave_room(trigger_models: Any, at_poll: Callable[[int, Session | None], None]) -> None:
    from sqlalchemy import func, select

    trigger, lock_rows = trigger_models.Trigger, trigger_models.with_row_locks
    if hasattr(lock_rows, "of_trainyard"):
        return
    assign = trigger.assign_unassigned.__func__
    # While a triggerer takes triggers, for which Airflow asks several times: its id and capacity, and how
    # many more it may take, of training and in all.
    asking: dict[str, int] = {}

    def assign_unassigned(cls: Any, triggerer_id: int, capacity: int, *args: Any, **options: Any) -> None:
        asking.update(id=triggerer_id, capacity=capacity)
        try:
            assign(cls, triggerer_id, capacity, *args, **options)
        finally:
            asking.clear()
        at_poll(capacity, options.get("session"))

    def count(session: Session) -> None:
        is_training = trigger.classpath.in_(_TRAINING)
        own = select(is_training, func.count(trigger.id)).where(trigger.triggerer_id == asking["id"])
        taken = {bool(kind): number for kind, number in session.execute(own.group_by(is_training))}
        asking["training"] = int(TRAINING_SHARE * asking["capacity"]) - taken.get(True, 0)
        asking["all"] = asking["capacity"] - sum(taken.values())

    def with_row_locks(query: Any, session: Session, **options: Any) -> Any:
        if asking:
            if "training" not in asking:
                count(session)
            if asking["training"] <= 0:
                query = query.where(trigger.classpath.not_in(_TRAINING))
            elif asking["training"] < trigger.max_trigger_to_select_per_loop:
                # The others follow at the next poll.
                query = query.limit(min(asking["training"], asking["all"]))
        return lock_rows(query, session, **options)

    with_row_locks.of_trainyard = True  # type: ignore[attr-defined]
    trigger.assign_unassigned = classmethod(assign_unassigned)
    trigger_models.with_row_locks = with_row_locks


def cancel_triggers_once() -> None:
    """Let a trigger's `on_kill` run to its end.

    Airflow 3.3.2 cancels the trigger of a task that a user ended at every poll until it has gone. The second
    time it is `on_kill` that is cancelled, in silence, and what it was to delete stays. To be called as
    `extend_triggers`.
    """
    _after_import(_TRIGGERER, _cancel_once, CANCEL_EXTENSION)


def _cancel_once(triggerer: Any) -> None:
    runner_class = triggerer.TriggerRunner
    original = runner_class.cancel_triggers

    async def cancel_triggers(self: Any) -> None:
        asked = [each for each in dict.fromkeys(self.to_cancel) if each in self.triggers]
        self.to_cancel.clear()
        self.to_cancel.extend(each for each in asked if not self.triggers[each]["task"].cancelling())
        await original(self)

    runner_class.cancel_triggers = cancel_triggers


def keep_last_lines() -> None:
    """Let what a trigger logs last come into the log of its task.

    Airflow 3.3.2 closes the log of a trigger as soon as it hears that the trigger has ended. The last lines,
    such as why a task failed or is skipped, come by another socket; a triggerer that reads it later has them
    in its own log only. To be called as `extend_triggers`.
    """
    _after_import(_TRIGGERER, _hear_last_lines_first, LAST_LINES_EXTENSION)


def _hear_last_lines_first(triggerer: Any) -> None:
    supervisor_class = triggerer.TriggerRunnerSupervisor
    original = supervisor_class._handle_request
    ended: list[int] = []  # of which lines may be unread

    def handle_request(self: Any, message: Any, *args: Any) -> None:
        if isinstance(message, triggerer.messages.TriggerStateChanges):
            ended.extend(message.finished or ())
            # It reads only what it is told to be ready: here it must not, but may wait for the next message.
            has_heard = not _has_unread_log(self) or len(ended) > KEPT_LOGS
            message = message.model_copy(update={"finished": list(ended) if has_heard else None})
            if has_heard:
                ended.clear()
        original(self, message, *args)

    supervisor_class._handle_request = handle_request


def _has_unread_log(supervisor: Any) -> bool:
    ready = (key.fileobj for key, _ in supervisor.selector.select(timeout=0))
    return any(supervisor._open_sockets.get(each) == "logs" for each in ready)


def end_runs_as_told() -> None:
    """Let a run that a person marks as failed end as failed.

    Airflow 3.3.2 skips the tasks that have not begun, and leaves the run's state to its last tasks while a
    teardown is still to run: skipped ones make a success of it. To be called as `extend_triggers`.
    """
    _after_import(_MARK_TASKS, _end_as_told, END_EXTENSION)


def _end_as_told(mark_tasks: Any) -> None:
    from airflow.utils.state import DagRunState, TaskInstanceState

    original = mark_tasks._set_dag_run_terminal_state

    def set_terminal_state(*, run_state: Any, commit: bool, session: Session, **others: Any) -> Any:
        changed, killed = original(run_state=run_state, commit=commit, session=session, **others)
        if commit and run_state == DagRunState.FAILED:
            for instance in changed:
                if instance.state == TaskInstanceState.SKIPPED:
                    instance.set_state(TaskInstanceState.UPSTREAM_FAILED, session=session)
        return changed, killed

    mark_tasks._set_dag_run_terminal_state = set_terminal_state


def repair_callbacks_of_versions() -> None:
    """Let the dag-processor run every callback of a versioned bundle, and pause between parses afterwards.

    The file of such a callback has the version of its run, so Airflow 3.3.2 keeps it apart from the file that
    it parses. It parses a file again and again, without `min_file_process_interval`, once a callback has run:
    the callback's statistic never gets a time, and hides that of the file (apache/airflow#73432). And a
    callback that arrives while another one of the same run is under way is forgotten until a third arrives:
    its file leaves the queue, and no scan brings it back. To be called as `extend_triggers`.
    """
    _after_import(_DAG_PROCESSOR, _repair_callbacks, CALLBACK_EXTENSION)


def _repair_callbacks(dag_processor: Any) -> None:
    manager_class = dag_processor.DagFileProcessorManager
    original_prepare = manager_class.prepare_file_queue
    original_start = manager_class._start_new_processes

    def prepare_file_queue(self: Any, known_files: Any) -> None:
        for file in [file for file in self._file_stats if file.bundle_version]:
            del self._file_stats[file]
        original_prepare(self, known_files=known_files)

    def _start_new_processes(self: Any) -> None:
        waiting = [file for file in self._callback_to_execute if file not in self._processors]
        forgotten = [file for file in waiting if file not in self._file_queue]
        if forgotten:
            self._add_files_to_queue(forgotten, mode="front")
        original_start(self)

    manager_class.prepare_file_queue = prepare_file_queue
    manager_class._start_new_processes = _start_new_processes


def make_missing_roles(roles: Callable[[], Collection[str]]) -> None:
    """Let whoever stores DAGs first make those of `roles` to which one gives permissions.

    Airflow 3.3.2 takes permissions for a role that is not there for an import error of the DAG's file, and
    starts no run of it. To be called as `extend_triggers`.
    """

    def extend(dag_store: Any) -> None:
        _make_roles(dag_store, roles)

    _after_import(_DAG_STORE, extend, ROLE_EXTENSION)


def _make_roles(dag_store: Any, roles: Callable[[], Collection[str]]) -> None:
    original = dag_store._sync_dag_perms

    def _sync_dag_perms(dag: Any, session: Session) -> None:
        from airflow.providers.fab.www.security_appless import ApplessAirflowSecurityManager

        if named := dag.access_control:
            manager = ApplessAirflowSecurityManager(session=session)
            for role in named.keys() & set(roles()):
                manager.add_role(role)  # nothing where it is there
        original(dag, session=session)

    dag_store._sync_dag_perms = _sync_dag_perms


def _after_import(module: str, change: Callable[[Any], None], what: str) -> None:
    """Call `change` with the module, now or as soon as the process imports it."""
    if module in sys.modules:
        change(sys.modules[module])
    elif not any(
        isinstance(finder, _AfterImport) and (finder.module, finder.change) == (module, change)
        for finder in sys.meta_path
    ):
        sys.meta_path.insert(0, _AfterImport(module, change, what))


class _AfterImport(MetaPathFinder):
    """Calls `change` once the module is imported."""

    def __init__(self, module: str, change: Callable[[Any], None], what: str) -> None:
        self.module = module
        self.change = change
        self._what = what

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            try:
                self.change(module)
            except Exception:
                # Here it would end the import, and so the process.
                log_unsupported(self._what, f"{__name__}:{self.change.__name__}")

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _extend(trigger_models: Any) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent

    # Every lookup comes before the first change: an Airflow that lacks one of them stays as it is.
    submit = trigger_models.handle_event_submit
    if TaskSuccessEvent in submit.registry:
        return
    ends, register = submit.dispatch(TaskSuccessEvent), submit.register
    fail_try = trigger_models._fail_unresumable_task_instance
    register_assets: Any = TaskInstance.register_asset_changes_in_db
    plain: Any = DagRun.dag_run_data
    run_data = plain.fget

    def end(event: TaskSuccessEvent, *, task_instance: TaskInstance, session: Session) -> None:
        report = (event.xcoms or {}).pop(OUTLETS, None)
        try:
            if report:
                _register_outlets(register_assets, task_instance, report, session)
        except Exception as error:
            # Raised here it would end the triggerer. The try fails instead, as on a worker.
            log.exception("the asset events of %s cannot be registered", task_instance)
            reason = f"its asset events cannot be registered: {error}"
            fail_try(task_instance, reason, error, session=session)
            return
        ends(event, task_instance=task_instance, session=session)

    def fail(event: TaskFailedEvent, *, task_instance: TaskInstance, session: Session) -> None:
        if (event.xcoms or {}).pop(FINAL, None):
            # As many tries as there were: clearing the task gives it new ones.
            task_instance.max_tries = task_instance.try_number - 1
        ends(event, task_instance=task_instance, session=session)

    register(TaskSuccessEvent, end)
    register(TaskFailedEvent, fail)
    DagRun.dag_run_data = property(lambda run: _with_origin(run_data(run), run))  # type: ignore[method-assign,assignment]


def _register_outlets(
    register_assets: Any, task_instance: TaskInstance, report: Any, session: Session
) -> None:
    from airflow.api_fastapi.execution_api.datamodels.asset import AssetProfile

    outlets = [AssetProfile(**outlet) for outlet in report["outlets"]]
    with session.begin_nested():
        callbacks = register_assets(task_instance, outlets, report["events"], session=session)

    _call_after_commit(session, callbacks)


def _call_after_commit(session: Session, callbacks: Iterable[Callable[[], None]]) -> None:
    """Call `callbacks` once the transaction that `session` is in has been committed, or else never."""
    from sqlalchemy import event

    if _CALLBACKS not in session.info:
        session.info[_CALLBACKS] = []
        event.listen(session, "after_commit", _committed)
        event.listen(session, "after_transaction_end", _ended)
    session.info[_CALLBACKS] += callbacks


def _committed(session: Session) -> None:
    if session.in_nested_transaction():
        return  # a savepoint was released
    callbacks, session.info[_CALLBACKS] = session.info[_CALLBACKS], []
    for callback in callbacks:
        callback()


def _ended(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:  # not a savepoint; what is left was rolled back
        session.info[_CALLBACKS] = []


def _with_origin(data: Any, dag_run: DagRun) -> Any:
    """The run as triggers get it, with the user and the asset events that started it.

    Where that fails it is `data`: a trigger that cannot be started would end the triggerer.
    """
    try:
        return data.model_copy(update=_origin(dag_run))
    except Exception:
        _log_no_origin()
        return data


@cache
def _log_no_origin() -> None:
    """Once in a process: every run of every trigger would fail alike."""
    log_unsupported("user and asset events of a run in its triggers", f"{__name__}:_origin")


def _origin(dag_run: DagRun) -> dict[str, Any]:
    from airflow.api_fastapi.execution_api.datamodels.taskinstance import AssetEventDagRunReference
    from airflow.utils.types import DagRunType

    events = []
    if dag_run.run_type == DagRunType.ASSET_TRIGGERED:
        for each in dag_run.consumed_asset_events:
            reference = AssetEventDagRunReference.model_validate(each, from_attributes=True)
            events.append(reference.model_copy(update={"extra": _encodable(reference.extra)}))
    return {"triggering_user_name": dag_run.triggering_user_name, "consumed_asset_events": events}


def _encodable(value: Any) -> Any:
    """`value` without integers over 64 bits, of which the triggerer dies: they become text."""
    if isinstance(value, Mapping):
        return {key: _encodable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_encodable(each) for each in value]
    if isinstance(value, int) and not -_MAX_INTEGER <= value < _MAX_INTEGER:
        return str(value)
    return value


def register_importer(importer: AbstractDagImporter) -> None:
    """Let this process read DAG files of another type than Python.

    Airflow 3.3.2 asks its importers which files they read everywhere but in the dag-processor, which lists
    Python and zip files.
    """
    from airflow.dag_processing.importers import get_importer_registry
    from airflow.utils import file

    registry = get_importer_registry()
    registry.register(importer)
    file.find_dag_file_paths = registry.list_dag_files


def files_not_ignored(directory: str | PathLike[str]) -> Iterator[Path]:
    """The files below a DAG folder that no `.airflowignore` excludes."""
    from airflow._shared.module_loading import find_path_from_directory
    from airflow.configuration import conf

    syntax = conf.get_mandatory_value("core", "DAG_IGNORE_FILE_SYNTAX", fallback="glob")
    found: Iterable[str] = find_path_from_directory(directory, ".airflowignore", syntax)
    return map(Path, found)


def in_worker_pod() -> bool:
    """Whether this process runs in a pod that KubernetesExecutor made for one task."""
    return os.environ.get("AIRFLOW_IS_K8S_EXECUTOR_POD") == "True"


def bundle_of_worker_pod(pod: Any) -> tuple[str, str | None] | None:
    """Name and version of the DAG bundle that a worker pod is to use; None for any other pod.

    KubernetesExecutor gives the task to the container `base` as JSON, after `--json-string`.
    """
    for container in pod.spec.containers:
        arguments = list(container.args or [])
        if container.name == "base" and "--json-string" in arguments[:-1]:
            bundle = json.loads(arguments[arguments.index("--json-string") + 1])["bundle_info"]
            return bundle["name"], bundle["version"]
    return None
