"""The private Airflow APIs in use are what the library takes them for, in the Airflow that is installed."""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from inspect import signature
from pathlib import Path
from socket import socketpair
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import airflow
import pytest
from airflow.dag_processing import manager
from airflow.dag_processing.importers import get_importer_registry
from airflow.jobs import triggerer_job_runner
from airflow.jobs.job import Job
from airflow.models import trigger as trigger_models
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.providers.cncf.kubernetes.executors.kubernetes_executor_utils import get_base_pod_from_template
from airflow.providers.cncf.kubernetes.kube_config import KubeConfig
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Asset, AssetAlias, BaseOperator, task_group
from airflow.sdk.api.datamodels._generated import TaskStatesResponse, XComResponse
from airflow.sdk.bases.operator import OperatorPartial
from airflow.sdk.execution_time import comms, hitl, task_runner
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.serialization.serialized_objects import DagSerialization
from airflow.triggers.base import BaseTrigger, DiscrimatedTriggerEvent, TaskSuccessEvent
from airflow.utils import file
from fresh_process import output_of
from pydantic import TypeAdapter
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from trainyard import airflow_compat
from trainyard.factory.importer import ModelImporter
from trainyard.training.operator import TrainingPodPartial

DAGS = Path(__file__).parents[2] / "dags"
TASK = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}


def test_the_executor_reads_the_pod_template_anew_for_each_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a changed template restarts no scheduler."""
    template = tmp_path / "pod.yaml"
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE", str(template))
    settings = KubeConfig()
    for name in ("before", "after"):
        template.write_text(f"{{kind: Pod, metadata: {{name: {name}}}}}")
        assert get_base_pod_from_template(None, settings).metadata.name == name


class Supervisor:
    """Answers like the process that a task, a callback or a trigger asks, and keeps the requests."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.requests: list[Any] = []

    def send(self, msg: Any) -> Any:
        self.requests.append(msg)
        return self.answer

    async def asend(self, msg: Any) -> Any:
        return self.send(msg)


@pytest.fixture
def supervise(monkeypatch: pytest.MonkeyPatch) -> Any:
    def _supervise(answer: Any = None) -> Supervisor:
        supervisor = Supervisor(answer)
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
        return supervisor

    return _supervise


def test_it_was_tried_on_the_airflow_that_is_installed() -> None:
    assert airflow.__version__ == airflow_compat.AIRFLOW_VERSION


def test_the_template_environment_has_airflows_filters_and_is_strict_about_names() -> None:
    environment = airflow_compat.template_environment()
    assert {"ds", "ts_nodash"} <= set(environment.filters)


@pytest.mark.parametrize(
    ("expand", "wanted"),
    [
        (lambda task: task.expand(x=[1, 2], y=["a"]), {"product": [["x", [1, 2]], ["y", ["a"]]]}),
        (lambda task: task.expand_kwargs([{"x": 1}]), {"kwargs": [{"x": 1}]}),
    ],
)
def test_mapped_arguments_are_those_of_expand(expand: Any, wanted: dict[str, Any]) -> None:
    class Operator(BaseOperator):
        def __init__(self, *, x: int = 0, y: str = "", **kwargs: Any) -> None:
            super().__init__(**kwargs)

    with DAG("d", schedule=None):
        mapped = expand(Operator.partial(task_id="t"))
    assert airflow_compat.mapped_arguments(mapped) == wanted


@pytest.mark.parametrize(
    ("expand", "wanted"),
    [
        (lambda group: group.expand(x=[1, 2]), {"product": [["x", [1, 2]]]}),
        (lambda group: group.expand_kwargs([{"x": 1}]), {"kwargs": [{"x": 1}]}),
    ],
)
def test_an_argument_of_a_mapped_group_is_known_with_what_it_was_given(
    expand: Any, wanted: dict[str, Any]
) -> None:
    found = []

    @task_group
    def group(x: Any) -> None:
        found.append(airflow_compat.group_argument(x))
        found.append(airflow_compat.mapped_group(BaseOperator(task_id="inside")))

    with DAG("d", schedule=None):
        expand(group)
        outside = BaseOperator(task_id="outside")
    assert found == [(wanted, "x"), "group"]
    assert airflow_compat.mapped_group(outside) == ""
    assert airflow_compat.group_argument(1) is None


class Partial(OperatorPartial):
    pass


@pytest.mark.parametrize("name", ["expand", "expand_kwargs"])
def test_a_partial_can_be_of_a_subclass_that_extends_what_maps_it(name: str) -> None:
    arguments = {"task_id": "t", "bash_command": "true", "retries": 4}
    with DAG("d", schedule=None) as dag:
        base = BashOperator.partial(**arguments)
        partial = airflow_compat.partial_as(Partial, base)
        assert type(partial) is Partial and partial.operator_class is BashOperator
        env = {"env": [{"A": "1"}]}
        task = partial.expand(**env) if name == "expand" else partial.expand_kwargs([{"env": {"A": "1"}}])
    assert dag.get_task("t") is task
    assert (task.partial_kwargs["retries"], task.operator_class) == (4, BashOperator)
    assert signature(getattr(TrainingPodPartial, name)).parameters.keys() == (
        signature(getattr(OperatorPartial, name)).parameters.keys()
    )


def test_only_a_partial_that_was_replaced_does_not_warn() -> None:
    gc.collect()  # those that other tests have dropped warn now

    def dropped(replace: bool) -> list[str]:
        with DAG("d", schedule=None), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            base = BashOperator.partial(task_id="t", bash_command="true")
            if replace:
                airflow_compat.partial_as(Partial, base).expand(env=[{}])
            del base
            gc.collect()
        return [str(each.message) for each in caught if "never mapped" in str(each.message)]

    assert (dropped(True), dropped(False)) == ([], ["Task 't' was never mapped!"])


def test_users_who_may_answer_are_those_of_the_request(supervise: Any) -> None:
    supervisor = supervise()
    hitl.upsert_hitl_detail(uuid4(), ["Yes"], "?", assigned_users=airflow_compat.hitl_users(["1", "2"]))
    (request,) = supervisor.requests
    assert [(user.id, user.name) for user in request.assigned_users] == [("1", "1"), ("2", "2")]


def states_in_a_trigger(*args: Any, **kwargs: Any) -> Any:
    return asyncio.run(airflow_compat.atask_states(*args, **kwargs))


@pytest.mark.parametrize("ask", [airflow_compat.task_states, states_in_a_trigger])
def test_task_states_are_asked_for_one_run(supervise: Any, ask: Any) -> None:
    answer = comms.TaskStatesResult.from_api_response(TaskStatesResponse(task_states={"r": {"t": "failed"}}))
    supervisor = supervise(answer)
    assert ask("d", "r", task_ids=["t"], map_index=-1) == {"t": "failed"}
    (request,) = supervisor.requests
    assert isinstance(request, comms.GetTaskStates)
    assert (request.dag_id, request.run_ids, request.task_ids, request.map_index) == ("d", ["r"], ["t"], -1)


def test_one_xcom_is_read(supervise: Any) -> None:
    supervisor = supervise(comms.XComResult.from_xcom_response(XComResponse(key="k", value=7)))
    assert airflow_compat.read_xcom("d", "r", "t", "k") == 7
    assert isinstance(supervisor.requests[0], comms.GetXCom)


def test_xcoms_are_pushed_as_objects(supervise: Any) -> None:
    supervisor = supervise()
    asyncio.run(airflow_compat.push_xcom("d", "r", "t", -1, {"return_value": {"a": 1}}))
    (request,) = supervisor.requests
    assert isinstance(request, comms.SetXCom)
    assert request.model_dump(include=set(TASK)) == TASK
    assert request.value == {"a": 1}


def test_the_dag_processor_lists_the_files_of_a_registered_importer(tmp_path: Path) -> None:
    airflow_compat.register_importer(ModelImporter())
    (tmp_path / "models").mkdir()
    (tmp_path / "models/m.yaml").write_text("")
    (tmp_path / "ignored").mkdir()
    (tmp_path / "ignored/models").mkdir()
    (tmp_path / "ignored/models/n.yaml").write_text("")
    (tmp_path / ".airflowignore").write_text("ignored/\n")
    assert [str(path) for path in file.find_dag_file_paths(tmp_path, False)] == [
        str(tmp_path / "models/m.yaml")
    ]
    assert get_importer_registry().get_importer("m.yaml").__class__ is ModelImporter
    assert tmp_path / "ignored/models/n.yaml" not in set(airflow_compat.files_not_ignored(tmp_path))


def serialized(dag: DAG, task_id: str) -> Any:
    """A task as triggers have it."""
    return DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task(task_id)


@pytest.mark.parametrize("wanted", [True, False, None])
def test_an_author_may_want_no_result(wanted: bool | None) -> None:
    given = {} if wanted is None else {"do_xcom_push": wanted}
    with DAG("d", schedule=None) as dag:
        BashOperator(task_id="plain", bash_command="true", **given)
        BashOperator.partial(task_id="mapped", **given).expand(bash_command=["true", "false"])
    for task_id in ("plain", "mapped"):
        assert airflow_compat.pushes_xcom(serialized(dag, task_id)) is (wanted is not False)


def test_the_length_of_what_is_mapped_over_goes_with_the_result(supervise: Any) -> None:
    supervisor = supervise()
    asyncio.run(airflow_compat.push_xcom("d", "r", "t", -1, {"a": [1], "return_value": [1, 2]}, 2))
    assert [request.mapped_length for request in supervisor.requests] == [None, 2]


def test_one_xcom_is_read_from_a_trigger(supervise: Any) -> None:
    supervisor = supervise(comms.XComResult.from_xcom_response(XComResponse(key="k", value=7)))
    assert asyncio.run(airflow_compat.aread_xcom("d", "r", "t", "k", 3)) == 7
    assert (supervisor.requests[0].task_id, supervisor.requests[0].map_index) == ("t", 3)


def test_a_task_knows_whether_another_is_mapped_over_it() -> None:
    with DAG("d", schedule=None) as dag:
        listed = BashOperator(task_id="listed", bash_command="true")
        BashOperator(task_id="plain", bash_command="true")
        BashOperator.partial(task_id="each", bash_command="true").expand(env=listed.output)
    assert airflow_compat.is_mapped_over(serialized(dag, "listed"))
    assert not airflow_compat.is_mapped_over(serialized(dag, "plain"))


def test_a_success_carries_the_asset_events_that_a_worker_would_report() -> None:
    """Compared with what Airflow's own task runner sends for the same task."""
    outlets = [Asset("s3://b/x"), AssetAlias("champions"), Asset.ref(name="n"), Asset.ref(uri="s3://b/y")]
    with DAG("d", schedule=None) as dag:
        task = BashOperator(task_id="t", bash_command="true", outlets=outlets)
        BashOperator(task_id="plain", bash_command="true")
    events = OutletEventAccessors()
    events[outlets[0]].extra = {"date": "2026-01-02"}
    events[outlets[1]].add(Asset("s3://b/z"), extra={"version": "1"})
    success = airflow_compat.success_event(serialized(dag, "t"), events)
    told = [profile.model_dump() for profile in task_runner._build_asset_profiles(task.outlets)]
    assert success.xcoms == {
        airflow_compat.OUTLETS: {
            "outlets": told,
            "events": list(task_runner._serialize_outlet_events(events)),
        }
    }
    # It survives the way between the triggerer's processes.
    entry = TypeAdapter(DiscrimatedTriggerEvent)
    assert entry.validate_python(success.model_dump()).xcoms == success.xcoms
    assert airflow_compat.success_event(serialized(dag, "plain"), events).xcoms is None


def test_triggers_are_extended_when_their_models_are_imported() -> None:
    code = """
import sys
from trainyard.airflow_compat import extend_triggers
import airflow.settings
extend_triggers()
extend_triggers()
assert "airflow.models.trigger" not in sys.modules, "processes without triggers pay nothing"
from airflow.models.trigger import handle_event_submit
from airflow.models.dagrun import DagRun
from airflow.triggers.base import TaskSuccessEvent
print(handle_event_submit.dispatch(TaskSuccessEvent).__module__, DagRun.dag_run_data.fget.__module__)
extend_triggers()
"""
    printed = output_of(code, DAGS).splitlines()
    assert printed[-1] == "trainyard.airflow_compat trainyard.airflow_compat"


@pytest.fixture
def as_airflow_has_it(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Takes the repairs of the dag-processor away for the rest of the test."""

    def take_away() -> None:
        for name, closure in (
            ("prepare_file_queue", "original_prepare"),
            ("_start_new_processes", "original_start"),
        ):
            repaired = getattr(manager.DagFileProcessorManager, name)
            original = inspect.getclosurevars(repaired).nonlocals[closure]
            monkeypatch.setattr(manager.DagFileProcessorManager, name, original)

    return take_away


def test_a_file_is_not_parsed_without_a_pause_after_a_callback(
    tmp_path: Path, as_airflow_has_it: Callable[[], None]
) -> None:
    dag_file = tmp_path / "a.py"
    dag_file.touch()
    os.utime(dag_file, (0, 0))

    def queued() -> list[str]:
        processor = manager.DagFileProcessorManager(max_runs=-1)
        scanned = manager.DagFileInfo(Path("a.py"), "b", tmp_path)
        processor._file_stats[scanned] = manager.DagFileStat(last_finish_time=datetime.now(UTC))
        callback = manager.DagFileInfo(Path("a.py"), "b", tmp_path, bundle_version="1")
        processor._file_stats[callback] = manager.DagFileStat(last_duration=1)
        processor.prepare_file_queue(known_files={"b": {scanned}})
        return [str(file.rel_path) for file in processor._file_queue]

    repaired = queued()
    as_airflow_has_it()
    assert (queued(), repaired) == (["a.py"], []), "Airflow does it itself: drop the repair"


def test_a_callback_waits_for_another_one_of_its_run(
    tmp_path: Path, as_airflow_has_it: Callable[[], None]
) -> None:
    def queued() -> list[str]:
        processor = manager.DagFileProcessorManager(max_runs=-1)
        file = manager.DagFileInfo(Path("a.py"), "b", tmp_path, bundle_version="1")
        processor._callback_to_execute[file].append(object())
        processor._file_queue[file] = None
        processor._processors[file] = object()
        processor._start_new_processes()
        del processor._processors[file]
        processor._parallelism = 0  # what is queued stays there
        processor._start_new_processes()
        return [str(file.rel_path) for file in processor._file_queue]

    repaired = queued()
    as_airflow_has_it()
    assert (queued(), repaired) == ([], ["a.py"]), "Airflow does it itself: drop the repair"


def test_what_a_user_ended_is_cleaned_up_however_often_its_trigger_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Airflow's own runner, which is told at every poll to cancel a trigger that has not ended yet."""

    class Kept(BaseTrigger):
        started = cleaned_up = False

        def serialize(self) -> tuple[str, dict[str, Any]]:
            return "Kept", {}

        async def run(self) -> Any:
            self.started = True
            await asyncio.Event().wait()
            yield

        async def on_kill(self) -> None:
            await asyncio.sleep(0.5)  # many polls, also on a busy machine
            self.cleaned_up = True

    async def ended_by_a_user() -> bool:
        runner, trigger = triggerer_job_runner.TriggerRunner(), Kept()
        runner.triggers[1] = {"name": "kept", "events": 0}
        task = runner.triggers[1]["task"] = asyncio.create_task(runner.run_trigger(1, trigger))
        while not trigger.started:
            await asyncio.sleep(0.005)
        while not task.done():
            runner.to_cancel.append(1)
            await runner.cancel_triggers()
            await asyncio.sleep(0.005)
        return trigger.cleaned_up

    repaired = asyncio.run(ended_by_a_user())
    cancel_triggers = triggerer_job_runner.TriggerRunner.cancel_triggers
    original = inspect.getclosurevars(cancel_triggers).nonlocals["original"]
    monkeypatch.setattr(triggerer_job_runner.TriggerRunner, "cancel_triggers", original)
    as_airflow_has_it = asyncio.run(ended_by_a_user())
    assert (as_airflow_has_it, repaired) == (False, True), "Airflow does it itself: drop the repair"


def test_what_a_trigger_logs_last_is_in_the_log_of_its_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's own supervisor, which hears of the end before it reads the log."""
    lines = [json.dumps({"trigger_id": 1, "level": "info", "event": f"line {n}"}) for n in range(500)]
    changes = partial(triggerer_job_runner.messages.TriggerStateChanges, events=None, failures=None)

    def log_of_trigger(name: str) -> str:
        (log, written), (stdin, _answers), *others = pairs = [socketpair() for _ in range(5)]
        supervisor = triggerer_job_runner.TriggerRunnerSupervisor(
            id=uuid4(), pid=0, stdin=stdin, process=None, process_log=None, capacity=1
        )
        supervisor._register_pipe_readers(*(each for each, _ in others), log, data={})
        supervisor.logger_cache[1] = triggerer_job_runner.TriggerLoggingFactory(
            log_path=str(tmp_path / name), ti=None
        )
        written.sendall("".join(f"{line}\n" for line in lines).encode())
        supervisor._handle_request(changes(finished=[1]), None, 1)
        # As its loop does: what is ready is read, once.
        while ready := supervisor.selector.select(timeout=0):
            for key, _ in ready:
                key.data[0](key.fileobj)
        supervisor._handle_request(changes(finished=None), None, 2)
        assert supervisor.logger_cache == {}, "its file stays open"
        for each in itertools.chain(*pairs):
            each.close()
        return (tmp_path / name).read_text() if (tmp_path / name).exists() else ""

    repaired = log_of_trigger("repaired")
    supervisor_class = triggerer_job_runner.TriggerRunnerSupervisor
    original = inspect.getclosurevars(supervisor_class._handle_request).nonlocals["original"]
    monkeypatch.setattr(supervisor_class, "_handle_request", original)
    assert [f"line {n}" in repaired for n in (0, 499)] == [True, True]
    assert "line" not in log_of_trigger("as_airflow_has_it"), "Airflow does it itself: drop the repair"


def test_the_triggerer_polls_four_times_a_second() -> None:
    code = """
import airflow.settings
from trainyard.airflow_compat import POLL_SECONDS, shorten_triggerer_polls
shorten_triggerer_polls()
import asyncio, inspect
from airflow.jobs import triggerer_job_runner as triggerer
# The pause of its loop is the only delay that the module makes by anyio.
for part in (triggerer, triggerer.TriggerRunner.arun):
    assert inspect.getsource(part).count("anyio.move_on_after(1)") == 1, part
assert inspect.getsource(triggerer).count("move_on_after") == 1

async def pause():
    with triggerer.anyio.move_on_after(1) as scope:
        return scope.deadline - asyncio.get_running_loop().time()

assert asyncio.run(pause()) <= POLL_SECONDS
triggerer.anyio.Event  # everything else is anyio's
"""
    output_of(code, DAGS)


BROKEN_AIRFLOW = """
import importlib.util, sys
from importlib.machinery import PathFinder, SourceFileLoader
from trainyard.airflow_compat import extend_triggers
import airflow.settings

class Other(SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        {change}

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "airflow.models.trigger":
            file = PathFinder.find_spec(name, path).origin
            return importlib.util.spec_from_file_location(name, file, loader=Other(name, file))

extend_triggers()
sys.meta_path.insert(sys.meta_path.index(PathFinder), Finder)
import airflow.models.trigger
from airflow.models.dagrun import DagRun
print(DagRun.dag_run_data.fget.__module__)
"""


@pytest.mark.parametrize(
    "change",
    [
        "module.handle_event_submit = lambda event: None",
        "del module.handle_event_submit",
        "del module._fail_unresumable_task_instance",
    ],
)
def test_an_airflow_with_another_private_api_is_left_as_it_is(change: str) -> None:
    code = BROKEN_AIRFLOW.format(change=change)
    said = output_of(code, DAGS)
    assert said.splitlines()[-1] == "airflow.models.dagrun", "half of the changes were made"
    assert (
        f"this process has no {airflow_compat.TRIGGER_EXTENSION}, because trainyard.airflow_compat:" in said
    )
    assert "AttributeError" in said


def test_a_run_whose_origin_cannot_be_read_goes_to_its_triggers_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    airflow_compat._log_no_origin.cache_clear()
    data = object()
    for _ in range(3):
        assert airflow_compat._with_origin(data, object()) is data  # type: ignore[arg-type]
    assert [record.args for record in caplog.records] == [
        ("user and asset events of a run in its triggers", "trainyard.airflow_compat:_origin")
    ]


def deferred(session: Session) -> TaskInstance:
    """A stored task instance that waits for its trigger."""
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        BashOperator(task_id="t", bash_command="true")
    now = datetime.now(UTC)
    run = DagRun(dag_id="d", run_id="r", run_type="manual", run_after=now, state="running", logical_date=now)
    instance = TaskInstance(serialized(dag, "t"), dag_version_id=uuid4(), run_id="r", state="deferred")
    instance.trigger_id, instance.dag_run = 7, run
    session.add(instance)
    session.commit()
    return instance


OTHERS = "trainyard.triggerer.control_trigger.ControlTrigger"


def nothing(*_: object) -> None: ...


@pytest.fixture
def waiting(session: Session) -> Callable[..., None]:
    """Stores so many tasks that wait for a trigger of a class, older than those that come later."""
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        BashOperator(task_id="t", bash_command="true")
    now = datetime.now(UTC)
    run = DagRun(dag_id="d", run_id="r", run_type="manual", run_after=now, state="running", logical_date=now)
    session.add_all([run, Job(id=1, job_type="TriggererJob", latest_heartbeat=now)])
    moments = itertools.count()

    def _waiting(number: int, classpath: str) -> None:
        for _ in range(number):
            index = next(moments)
            created = now + timedelta(seconds=index)
            session.add(trigger_models.Trigger(classpath=classpath, kwargs={}, created_date=created))
            session.flush()
            instance = TaskInstance(
                serialized(dag, "t"), dag_version_id=uuid4(), run_id="r", state="deferred", map_index=index
            )
            instance.trigger_id, instance.dag_run = index + 1, run
            session.add(instance)
        session.commit()

    return _waiting


def assigned(session: Session, *, capacity: int, polls: int = 3) -> Counter[str]:
    """How many triggers of which class a triggerer has after some polls."""
    for _ in range(polls):
        trigger_models.Trigger.assign_unassigned(1, capacity, 30, session=session)
    model = trigger_models.Trigger
    return Counter(session.scalars(select(model.classpath).where(model.triggerer_id == 1)))


@pytest.mark.parametrize(("capacity", "of_training"), [(10, 8), (100, 80)])
@pytest.mark.parametrize("training", airflow_compat._TRAINING)
def test_a_sweep_larger_than_a_triggerer_leaves_room_for_others(
    session: Session, waiting: Callable[..., None], capacity: int, of_training: int, training: str
) -> None:
    airflow_compat.leave_room_in_triggerers(nothing)
    airflow_compat.leave_room_in_triggerers(nothing)  # twice is once
    waiting(capacity + 20, training)
    waiting(5, OTHERS)
    found = assigned(session, capacity=capacity)
    assert found == {training: of_training, OTHERS: min(5, capacity - of_training)}
    model = trigger_models.Trigger
    ids = session.scalars(select(model.id).where(model.triggerer_id == 1, model.classpath == training))
    assert sorted(ids) == list(range(1, of_training + 1)), "in the order in which they came"
    waiting(capacity, OTHERS)
    assert assigned(session, capacity=capacity)[training] == of_training


def test_without_training_others_have_the_whole_triggerer(
    session: Session, waiting: Callable[..., None]
) -> None:
    airflow_compat.leave_room_in_triggerers(nothing)
    waiting(12, OTHERS)
    assert assigned(session, capacity=10) == {OTHERS: 10}


def test_asset_events_that_cannot_be_registered_fail_the_try(session: Session) -> None:
    """Airflow's triggerer ends on an error in this place; triggerer/test_in_airflow.py has the good case."""
    from airflow.models import trigger as trigger_models

    airflow_compat.extend_triggers()
    instance = deferred(session)
    session.execute(text("DROP TABLE asset"))
    report = {"outlets": [{"name": "n", "uri": "s3://b/x", "type": "Asset"}], "events": []}
    success = TaskSuccessEvent(xcoms={airflow_compat.OUTLETS: report})
    trigger_models.handle_event_submit(success, task_instance=instance, session=session)
    instance.external_executor_id = "next"
    session.flush()
    session.commit()
    session.expire_all()
    stored = session.scalars(select(TaskInstance)).one()
    assert (stored.state, stored.next_method, stored.trigger_id) == ("scheduled", "__fail__", None)
    assert stored.external_executor_id == "next"
    assert stored.next_kwargs["error"].startswith("its asset events cannot be registered: ")
    assert "no such table: asset" in stored.next_kwargs["error"]


def test_a_run_that_a_person_fails_is_no_success_after_its_teardown(session: Session) -> None:
    from airflow.api.common import mark_tasks

    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        first, last, clean_up = (BashOperator(task_id=name, bash_command="true") for name in "abc")
        first >> last >> clean_up.as_teardown()
    now = datetime.now(UTC)
    run = DagRun(dag_id="d", run_id="r", run_type="manual", run_after=now, state="running", logical_date=now)
    session.add(run)
    for name, state in (("a", "success"), ("b", None), ("c", None)):
        instance = TaskInstance(serialized(dag, name), dag_version_id=uuid4(), run_id="r", state=state)
        instance.dag_run = run
        session.add(instance)
    session.commit()
    airflow_compat.end_runs_as_told()
    whole = serialized(dag, "a").dag
    mark_tasks.set_dag_run_state_to_failed(dag=whole, run_id="r", commit=True, session=session)
    session.commit()
    states = {each.task_id: each.state for each in session.scalars(select(TaskInstance))}
    assert states == {"a": "success", "b": "upstream_failed", "c": None}


def test_listeners_are_told_of_what_was_committed_and_of_nothing_else(session: Session) -> None:
    told: list[str] = []

    def register(name: str) -> None:
        session.execute(text("SELECT 1"))
        airflow_compat._call_after_commit(session, [lambda: told.append(name)])

    register("committed")
    with session.begin_nested():
        pass
    assert told == [], "a savepoint is no commit"
    session.commit()
    session.commit()
    assert told == ["committed"]
    register("rolled back")
    session.rollback()
    register("closed")
    session.close()
    register("second")
    with pytest.raises(ZeroDivisionError), session.begin_nested():
        _ = 1 / 0
    session.commit()
    assert told == ["committed", "second"]


def test_integers_that_end_the_triggerer_become_text() -> None:
    huge = {"a": [10**30, -(2**63), 2**63 - 1, 2**63], "b": {"c": -(2**63) - 1, "d": True}, "e": "x"}
    assert airflow_compat._encodable(huge) == {
        "a": [str(10**30), -(2**63), 2**63 - 1, str(2**63)],
        "b": {"c": str(-(2**63) - 1), "d": True},
        "e": "x",
    }


def test_a_role_of_a_team_is_made_before_a_dag_has_permissions_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What this is for, and what Airflow does without it, test_team_roles.py shows with a real Airflow."""
    from airflow.dag_processing import collection
    from airflow.providers.fab.www.security_appless import ApplessAirflowSecurityManager

    assert list(inspect.signature(collection._sync_dag_perms).parameters) == ["dag", "session"]
    done: list[str] = []
    store = SimpleNamespace(_sync_dag_perms=lambda dag, session: done.append(dag.dag_id))
    monkeypatch.setattr(ApplessAirflowSecurityManager, "add_role", lambda self, name: done.append(name))
    airflow_compat._make_roles(store, lambda: {"vision", "text"})
    store._sync_dag_perms(SimpleNamespace(dag_id="a", access_control=None), session=None)
    said = {"vision": {}, "ghost": {}}
    store._sync_dag_perms(SimpleNamespace(dag_id="b", access_control=said), session=None)
    assert done == ["a", "vision", "b"]
