"""Control tasks: how a DAG calls them, what their trigger does, and what the triggerer imports for it."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators.branch import BranchMixIn
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TaskGroup, task_group
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped
from airflow.serialization.serialized_objects import DagSerialization
from airflow.triggers.base import TaskFailedEvent, TaskSkippedEvent, TaskSuccessEvent, TriggerEvent
from fresh_process import output_of
from trainyard.flow import choose, only_if
from trainyard.triggerer import control_trigger
from trainyard.triggerer.control import control_task
from trainyard.triggerer.control_trigger import ControlTrigger, followed, load, skipped

DAGS = Path(__file__).parents[3] / "dags"


@control_task(retries=5)
async def shout(context: Any, word: str, *, times: int = 1) -> dict[str, Any]:
    """Stands for a function of the library."""
    if word == "skip":
        raise AirflowSkipException("nothing to say")
    if word == "sleep":
        await asyncio.sleep(60)
    return {"said": word.upper() * times, "run": context["run_id"]}


class Trigger(ControlTrigger):
    """Keeps the XComs that it pushes."""

    def __init__(self, request: Any) -> None:
        super().__init__(request)
        self.xcoms: dict[str, Any] = {}

    async def push(self, xcoms: Any, mapped_length: int | None = None) -> None:
        self.xcoms |= xcoms


def ended(dag: DAG, task_id: str, **params: Any) -> tuple[TriggerEvent, dict[str, Any]]:
    """The event and the XComs with which a task ends, by its trigger as the database would hold it."""
    task = stored(dag).get_task(task_id)
    trigger = Trigger(dag.get_task(task_id).start_trigger_args.trigger_kwargs["request"])
    where = {"dag_id": "d", "run_id": "r", "task_id": task_id, "map_index": -1, "try_number": 1, "id": 1}
    ti = SimpleNamespace(**where, task=task)
    trigger.task_instance = ti
    trigger.render_template_fields({"ti": ti, "params": params, "run_id": "r", "outlet_events": None})

    async def events() -> list[TriggerEvent]:
        return [event async for event in trigger.run()]

    (event,) = asyncio.run(events())
    return event, trigger.xcoms


def stored(dag: DAG) -> Any:
    """The DAG as the scheduler and the triggerer read it."""
    return DagSerialization.from_dict(DagSerialization.to_dict(dag))


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the trigger take functions of this file."""
    monkeypatch.setattr(control_trigger, "PACKAGE", __name__)


def test_a_call_makes_a_task_and_returns_its_output(ours: None) -> None:
    with DAG("d", schedule=None) as dag:
        first = shout("{{ params.word }}", times="{{ params.times }}")
        shout(first["said"], task_id="again", trigger_rule="all_done", retries=1)
    task = dag.get_task("shout")
    assert (task.retries, task.trigger_rule) == (5, "all_success")
    again = dag.get_task("again")
    assert (again.retries, again.trigger_rule, again.upstream_task_ids) == (1, "all_done", {"shout"})
    event, xcoms = ended(dag, "shout", word="ho", times=2)
    assert isinstance(event, TaskSuccessEvent)
    assert xcoms == {"said": "HOHO", "run": "r", "return_value": {"said": "HOHO", "run": "r"}}


@pytest.mark.parametrize("call", [lambda: shout(), lambda: shout("a", "b"), lambda: shout("a", tims=1)])
def test_a_wrong_call_is_an_error_of_the_dag_file(call: Any) -> None:
    with DAG("d", schedule=None), pytest.raises(TypeError):
        call()


@pytest.mark.parametrize("call", [only_if, lambda item: choose(item, then="a", otherwise="b")])
def test_what_would_skip_nothing_in_a_mapped_group_is_refused(call: Any) -> None:
    @task_group
    def group(item: Any) -> None:
        with pytest.raises(TypeError, match=r"@task\.branch or @task\.short_circuit"):
            call(item)
        shout(item)

    with DAG("d", schedule=None):
        group.expand(item=[1, 0])


@pytest.mark.parametrize(
    ("call", "cure"),
    [
        (lambda: shout.override(task_id="t")("a"), r"shout\(\.\.\., task_id=\.\.\., trigger_rule=\.\.\.\)"),
        (lambda: shout.partial(times=2), r"cannot be mapped.* task_id="),
        (lambda: shout.expand(word=["a"]), r"cannot be mapped.* task_id="),
        (lambda: shout.expand_kwargs([{"word": "a"}]), r"cannot be mapped.* task_id="),
        (lambda: shout("a", execution_timeout=timedelta(minutes=1)), r"use .*timeout= of other tasks"),
    ],
)
def test_what_only_a_task_decorator_has_names_the_cure(call: Any, cure: str) -> None:
    with DAG("d", schedule=None), pytest.raises(TypeError, match=cure):
        call()


def test_it_may_be_skipped(ours: None) -> None:
    with DAG("d", schedule=None) as dag:
        shout("skip")
    event, xcoms = ended(dag, "shout")
    assert isinstance(event, TaskSkippedEvent) and xcoms == {}


def test_one_that_takes_too_long_is_retried(ours: None) -> None:
    with DAG("d", schedule=None) as dag:
        shout("sleep", timeout=timedelta(seconds=0.1))
    event, xcoms = ended(dag, "shout")
    assert isinstance(event, TaskFailedEvent)
    assert xcoms["failure"] == {"cause": "deadline", "message": "not done within 0 s; raise timeout"}


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("os.system", "not in the library"),
        ("trainyardish.f", "not in the library"),
        ("trainyard.flow.nothing", "no trainyard.flow.nothing in the triggerer's image"),
        ("trainyard.nowhere.f", "no trainyard.nowhere.f in the triggerer's image"),
        ("trainyard.flow.Asset", "is no control task"),
    ],
)
def test_the_trigger_takes_no_other_function(path: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        load(path)


def graph(condition: str) -> DAG:
    """A branch to a group, to a task after it, and to a task that comes after one of the group as well."""
    with DAG("d", schedule=None) as dag:
        with TaskGroup("group") as group:
            EmptyOperator(task_id="a") >> EmptyOperator(task_id="b")
            EmptyOperator(task_id="c")
        other, join = EmptyOperator(task_id="other"), EmptyOperator(task_id="join")
        choose(condition, then="group", otherwise=["other"]) >> [group, other, join]
        group >> join
        cleaned = EmptyOperator(task_id="cleaned").as_teardown()
        only_if(condition) >> [EmptyOperator(task_id="next"), cleaned]
    return dag


@pytest.mark.parametrize(
    ("condition", "expected"),
    [("yes", ["group.a", "group.c", "join"]), ("", ["other"])],
)
def test_a_branch_follows_what_airflows_own_would(condition: str, expected: list[str]) -> None:
    dag = graph(condition)
    event, xcoms = ended(dag, "choose")
    assert isinstance(event, TaskSuccessEvent)
    assert xcoms["skipmixin_key"] == {"followed": expected}
    pushed: dict[str, Any] = {}
    task = dag.get_task("choose")
    ti = SimpleNamespace(task=task, map_index=-1, xcom_push=lambda key, value: pushed.update({key: value}))
    with pytest.raises(DownstreamTasksSkipped):
        BranchMixIn().do_branch({"ti": ti}, xcoms["return_value"])
    assert sorted(pushed["skipmixin_key"]["followed"]) == expected


def test_a_branch_to_nowhere_is_an_error() -> None:
    task = stored(graph("")).get_task("choose")
    with pytest.raises(ValueError, match="choose chose 'elsewhere', which is no task or group of d"):
        followed(task, "elsewhere")
    assert followed(task, None) == []


@pytest.mark.parametrize(("condition", "expected"), [("yes", []), ("", ["next"])])
def test_a_short_circuit_says_each_time_what_it_skips(condition: str, expected: list[str]) -> None:
    dag = graph(condition)
    _, xcoms = ended(dag, "only_if")
    assert xcoms == {"return_value": bool(condition), "skipmixin_key": {"skipped": expected}}
    assert skipped(stored(dag).get_task("only_if")) == ["next"], "no teardown is skipped"


def test_the_scheduler_looks_for_what_they_skip() -> None:
    dag = stored(graph(""))
    assert dag.get_task("choose").inherits_from_skipmixin
    assert dag.get_task("only_if").inherits_from_skipmixin


def test_a_triggerer_with_all_control_tasks_has_no_mlflow() -> None:
    code = """
import json, sys
from trainyard.triggerer.control_trigger import load
functions = ("registry.tasks.promote", "tuning.tasks.best_of_rounds", "alerts.tasks.notify", "flow.choose")
for path in functions:
    load("trainyard." + path)
import trainyard.training.trigger
print(json.dumps([name for name in ("mlflow", "numpy", "pandas", "boto3") if name in sys.modules]))
"""
    assert json.loads(output_of(code, DAGS).splitlines()[-1]) == []
