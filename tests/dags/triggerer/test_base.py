"""The bases of tasks that start and end in the triggerer, by way of an own operator and trigger."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.serialization.serialized_objects import DagSerialization
from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent, TriggerEvent
from events import is_final_failure
from fresh_process import output_of
from receiver import listening
from trainyard import airflow_compat
from trainyard.failures import TaskFailed
from trainyard.platform import PlatformError
from trainyard.training.operator import TrainingPodOperator
from trainyard.triggerer.base import TriggererOperator, TriggererTask, start_args

TRIGGER = f"{__name__}.CountTrigger"


class CountOperator(TriggererOperator):
    template_fields = ("rows",)

    def __init__(self, *, rows: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = rows
        self.start_trigger_args = start_args(TRIGGER, {"rows": rows}, timedelta(minutes=5))


class CountTrigger(TriggererTask):
    """Counts by what it is given: a number, or an error to raise. Pushes into `xcoms`."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__(request)
        self.xcoms: dict[str, Any] = {}

    async def work(self) -> dict[str, Any]:
        if isinstance(self.request["rows"], Exception):
            raise self.request["rows"]
        return {"rows": self.request["rows"]}

    async def abandon(self) -> None:
        self.xcoms["abandoned"] = True

    async def push(self, xcoms: Mapping[str, Any], mapped_length: int | None = None) -> None:
        self.xcoms |= xcoms


def instance(map_index: int = -1) -> SimpleNamespace:
    return SimpleNamespace(
        dag_id="d", run_id="r", task_id="count", map_index=map_index, try_number=2, id=uuid4()
    )


def ended(
    rows: Any, retries: int = 3, mapped_over: bool = False, **options: Any
) -> tuple[TriggerEvent, dict[str, Any]]:
    """The one event that a task with this argument ends with, and its XComs."""
    trigger = CountTrigger({"rows": rows})
    ti = instance()
    with DAG("d", schedule=None) as dag:
        given = rows if isinstance(rows, str) else 0
        count = CountOperator(task_id="count", rows=given, retries=retries, **options)
        if mapped_over:
            PythonOperator.partial(task_id="each", python_callable=print).expand(op_args=count.output)
    ti.task = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("count")
    trigger.task_instance = ti
    trigger.render_template_fields({"ti": ti, "params": {"rows": 7}})

    async def events() -> list[TriggerEvent]:
        return [event async for event in trigger.run()]

    (event,) = asyncio.run(events())
    return event, trigger.xcoms


@pytest.mark.parametrize(("rows", "expected"), [(3, 3), ("{{ params.rows }}", 7), ("{{ run_key }}", "d__r")])
def test_a_result_is_the_return_value_and_each_of_its_keys(rows: Any, expected: Any) -> None:
    event, xcoms = ended(rows)
    assert isinstance(event, TaskSuccessEvent)
    assert xcoms == {"rows": expected, "return_value": {"rows": expected}}


def test_a_result_that_nobody_wants_is_not_pushed() -> None:
    event, xcoms = ended(3, do_xcom_push=False)
    assert isinstance(event, TaskSuccessEvent) and xcoms == {}


def test_a_result_that_a_task_is_mapped_over_has_to_be_pushed() -> None:
    event, xcoms = ended(3, do_xcom_push=False, mapped_over=True)
    assert is_final_failure(event)
    assert xcoms["failure"]["cause"] == "bad_config"
    assert "do_xcom_push=False" in xcoms["failure"]["message"]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("execution_timeout", timedelta(minutes=1)),
        ("pre_execute", print),
        ("post_execute", print),
        ("on_execute_callback", print),
        ("executor_config", {"pod_override": "x"}),
        ("run_as_user", "ada"),
        ("max_active_tis_per_dag", 1),
        ("max_active_tis_per_dagrun", 1),
    ],
)
@pytest.mark.filterwarnings("ignore:Task .train. was never mapped")
def test_what_only_a_worker_minds_is_refused_wherever_it_is_set(argument: str, value: Any) -> None:
    step = {"step": "train", "dataset": "file:///data/x", "output_uri": "file:///checkpoints/m"}
    refused = pytest.raises(TypeError, match=f"{argument} has no effect.* use .*{argument}=None")
    with DAG("d", schedule=None), refused:
        CountOperator(task_id="count", rows=0, **{argument: value})
    with DAG("d", schedule=None), refused:
        TrainingPodOperator.partial(task_id="train", **step, **{argument: value})
    if argument in ("pre_execute", "post_execute"):  # Airflow takes these from no default_args
        return
    with DAG("d", schedule=None, default_args={argument: value}):
        with refused:
            CountOperator(task_id="count", rows=0)
        with refused:
            TrainingPodOperator.partial(task_id="train", **step)
        CountOperator(task_id="again", rows=0, **{argument: None})


def test_the_time_limit_that_airflow_has_for_every_task_is_a_workers(tmp_path: Path) -> None:
    """Nobody asked for it here, so it is no reason to refuse a DAG."""
    code = """
from datetime import timedelta
from airflow.sdk import DAG
from trainyard.operators import TrainingPodOperator
step = {"step": "train", "dataset": "file:///data/x", "output_uri": "file:///checkpoints/m"}
with DAG("d", schedule=None):
    alone = TrainingPodOperator(task_id="alone", **step)
    mapped = TrainingPodOperator.partial(task_id="mapped", **step).expand(run_key=["a"])
print(alone.execution_timeout, mapped.partial_kwargs["execution_timeout"])
try:
    with DAG("e", schedule=None):
        TrainingPodOperator(task_id="own", execution_timeout=timedelta(minutes=5), **step)
except TypeError as error:
    print(error)
"""
    printed = output_of(code, tmp_path, AIRFLOW__CORE__DEFAULT_TASK_EXECUTION_TIMEOUT="3600")
    assert "None None" in printed
    assert "own: execution_timeout has no effect" in printed


def test_what_another_try_may_cure_goes_through_airflows_retries() -> None:
    event, xcoms = ended(TaskFailed("temporary", "no answer", retry=True, log=["a line"]))
    assert isinstance(event, TaskFailedEvent)
    assert xcoms == {"failure": {"cause": "temporary", "message": "no answer", "log": ["a line"]}}


@pytest.mark.parametrize("extended", [True, False])
def test_what_no_try_can_cure_fails_for_good(extended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if extended:
        importlib.import_module("airflow.models.trigger")
        airflow_compat.extend_triggers()
    else:
        monkeypatch.setitem(sys.modules, "airflow.models.trigger", None)
    event, xcoms = ended(TaskFailed("code", "a bug", log=["a line"]))
    assert is_final_failure(event)
    assert isinstance(event, TaskFailedEvent) is extended
    if not extended:  # only a worker can say so (`execute_complete`)
        assert event.payload == {"cause": "code", "message": "a bug"}
    assert xcoms["failure"] == {"cause": "code", "message": "a bug", "log": ["a line"]}


@pytest.mark.parametrize(
    ("rows", "cause", "final"),
    [
        ("{{ params.nothing }}", "bad_config", True),
        (ValueError("rows is -1"), "bad_config", True),
        (PlatformError("no GPU pools"), "bad_config", True),
        (OSError("unreachable"), "platform", False),
    ],
)
def test_every_error_has_a_cause(rows: Any, cause: str, final: bool) -> None:
    event, xcoms = ended(rows)
    assert xcoms["failure"]["cause"] == cause
    assert is_final_failure(event) is final


@pytest.mark.parametrize(("map_index", "key"), [(-1, "count"), (3, "count_3")])
@pytest.mark.parametrize(("state", "abandoned"), [("failed", True), (None, True), ("deferred", False)])
def test_what_another_triggerer_goes_on_with_is_not_abandoned(
    monkeypatch: pytest.MonkeyPatch, map_index: int, key: str, state: str | None, abandoned: bool
) -> None:
    asked: list[dict[str, Any]] = []

    def states(**where: Any) -> dict[str, Any]:
        asked.append(where)
        return {"r": {key: state}}

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", states)
    trigger = CountTrigger({"rows": 3})
    trigger.task_instance = instance(map_index)
    asyncio.run(trigger.on_kill())
    assert trigger.xcoms == ({"abandoned": True} if abandoned else {})
    assert asked == [{"dag_id": "d", "task_ids": ["count"], "run_ids": ["r"], "map_index": map_index}]


@pytest.mark.parametrize(("rows", "ends"), [(3, "COMPLETE"), (OSError("unreachable"), "FAIL")])
def test_lineage_hears_of_both_ends(receive: Any, rows: Any, ends: str) -> None:
    with listening(201) as receiver:
        receive(receiver.url)
        ended(rows)
    assert [event["eventType"] for event in receiver.got] == ["START", ends]
    assert receiver.got[0]["run"]["runId"] == receiver.got[1]["run"]["runId"]


def test_the_operator_only_starts_the_trigger() -> None:
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1)) as dag:
        operator = CountOperator(task_id="count", rows=3)
        with pytest.raises(TypeError, match="CountOperator cannot be mapped"):
            CountOperator.partial(task_id="mapped")
    # Queued for a worker before an upgrade: the next try starts in the triggerer.
    with pytest.raises(AirflowException, match="starts in the triggerer") as refused:
        operator.execute({})
    assert not isinstance(refused.value, AirflowFailException)
    with pytest.raises(AirflowFailException, match="bad_data: no rows"):
        operator.execute_complete({}, {"cause": "bad_data", "message": "no rows"})
    decoded = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("count")
    assert decoded.start_from_trigger and decoded.start_trigger_args
    assert CountTrigger({"rows": 3}).serialize() == (TRIGGER, {"request": {"rows": 3}})
