"""Callbacks of DAGs: the content of a failed run's alert, sent to a local receiver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.api.datamodels._generated import TaskStatesResponse, XComResponse
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import (
    ErrorResponse,
    GetTaskStates,
    GetXCom,
    TaskStatesResult,
    XComResult,
)
from airflow.sdk.serde import serialize
from receiver import listening
from trainyard.alerts import callbacks, receivers
from trainyard.alerts.callbacks import Failure
from trainyard.training.cleanup import clean_up
from trainyard.training.operator import TrainingPodOperator

FAILURE = {
    "cause": "bad_data",
    "message": "labels: 3 rows have none",
    "events": ["Pulled: image"],
    "log": ["reading", "refused"],
    "pod": "d-validate-1",
    "node": "n1",
    "attempts": 1,
}


class Supervisor:
    """Airflow's side of a callback: responds as the dag-processor does, with Airflow's own models."""

    def __init__(self, states: dict[str, str], xcoms: dict[tuple[str, int, str], Any]) -> None:
        self.states = states
        self.xcoms = xcoms

    def send(self, msg: Any) -> Any:
        if isinstance(msg, GetTaskStates):
            assert (msg.dag_id, msg.run_ids) == ("d", ["r+1"])
            return TaskStatesResult.from_api_response(TaskStatesResponse(task_states={"r+1": self.states}))
        assert isinstance(msg, GetXCom)
        value = self.xcoms.get((msg.task_id, msg.map_index, msg.key))
        response = XComResponse(key=msg.key, value=None if value is None else serialize(value))
        return XComResult.from_xcom_response(response)


@pytest.fixture
def dag() -> DAG:
    step = {"step": "train", "dataset": "file:///data/x", "output_uri": "file:///checkpoints/m"}
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1)) as dag:
        TrainingPodOperator(task_id="validate", **step)
        TrainingPodOperator.partial(task_id="trial_of_2", **step).expand_kwargs([{}, {}])
        TrainingPodOperator(task_id="gate", **step)
    return dag


@pytest.fixture
def heard(secret: Path) -> Iterator[list[dict[str, Any]]]:
    """What the webhook gets."""
    with listening() as receiver:
        (secret / "webhook-url").write_text(receiver.url)
        yield receiver.got


def fail(
    monkeypatch: pytest.MonkeyPatch, dag: DAG, states: dict[str, str], xcoms: dict, reason: str = ""
) -> None:
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(states, xcoms), raising=False)
    callbacks.on_failure({"dag": dag, "run_id": "r+1", "reason": reason or "task_failure"})


def test_one_alert_tells_each_failed_task(
    monkeypatch: pytest.MonkeyPatch, dag: DAG, heard: list[dict[str, Any]]
) -> None:
    states = {"validate": "failed", "trial_of_2_0": "success", "trial_of_2_1": "failed"}
    xcoms = {
        ("validate", -1, "failure"): FAILURE,
        ("validate", -1, "_link_mlflow_run"): "http://mlflow/#/1",
        ("trial_of_2", 1, "failure"): {"cause": "oom", "message": "killed", "log": ["a"] * 99},
    }
    fail(monkeypatch, dag, {**states, "gate": "upstream_failed"}, xcoms)
    (alert,) = heard
    assert alert["severity"] == "error" and alert["key"] == "d/r+1"
    assert alert["title"] == "d failed: validate (bad_data), trial_of_2[1] (oom)"
    for part in (
        "run r+1",
        "validate: bad_data: labels: 3 rows have none",
        "pod d-validate-1, node n1, attempt 1",
        "event: Pulled: image",
        "| refused",
    ):
        assert part in alert["text"]
    first, second = alert["details"]["failures"]
    assert (first["log"], first["events"]) == (["reading", "refused"], ["Pulled: image"])
    assert (second["task_id"], second["map_index"], len(second["log"])) == (
        "trial_of_2",
        1,
        callbacks.MAX_LINES,
    )
    run = "http://localhost:8080/dags/d/runs/r%2B1"
    assert alert["links"]["run"] == run
    assert alert["links"]["log of validate"] == f"{run}/tasks/validate"
    assert alert["links"]["MLflow run of validate"] == "http://mlflow/#/1"
    assert "MLflow run of trial_of_2[1]" not in alert["links"]
    assert alert["links"]["log of trial_of_2[1]"] == f"{run}/tasks/trial_of_2/mapped/1"


def test_of_a_worker_task_its_log_tells_the_error(
    monkeypatch: pytest.MonkeyPatch, dag: DAG, heard: list[dict[str, Any]], tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path))
    folder = tmp_path / "dag_id=d/run_id=r+1/task_id=gate"
    folder.mkdir(parents=True)
    (folder / "attempt=1.log").write_text('{"event": "old"}\n')
    detail = [{"exc_type": "ValueError", "exc_value": "no metric 'f1'"}, {"exc_type": "KeyError"}]
    lines = [
        {"event": "comparing"},
        {"event": "Task failed with exception", "error_detail": detail},
        {"event": "::group::x"},
    ]
    (folder / "attempt=10.log").write_text("\n".join([*map(json.dumps, lines), "not JSON"]))
    fail(monkeypatch, dag, {"gate": "failed"}, {})
    (failure,) = heard[0]["details"]["failures"]
    assert failure["message"] == "ValueError: no metric 'f1'"
    assert failure["log"] == ["comparing", "Task failed with exception"]


def test_a_run_out_of_time_says_so(
    monkeypatch: pytest.MonkeyPatch, dag: DAG, heard: list[dict[str, Any]]
) -> None:
    fail(monkeypatch, dag, {"validate": "skipped"}, {}, "timed_out")
    assert heard[0]["title"] == "d failed: it took longer than its dagrun_timeout"


def test_a_big_sweep_makes_no_big_alert() -> None:
    many = [Failure("t", index, "code", "x" * 200) for index in range(500)]
    alert = callbacks.run_failed("d", "r", "task_failure", many)
    assert "and 490 more" in alert.text and alert.details["failed_tasks"] == 500
    assert len(json.dumps(receivers.webhook_body(alert))) < 20_000


def test_an_alert_goes_out_even_if_airflow_answers_nothing(
    monkeypatch: pytest.MonkeyPatch, dag: DAG, heard: list[dict[str, Any]]
) -> None:
    class Silent:
        def send(self, msg: Any) -> ErrorResponse:
            return ErrorResponse()

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Silent(), raising=False)
    callbacks.on_failure({"dag": dag, "run_id": "r", "reason": "task_failure"})
    assert heard[0]["title"] == "d failed: task_failure"


def test_a_dag_that_wants_it_tells_its_successes(
    monkeypatch: pytest.MonkeyPatch, dag: DAG, heard: list[dict[str, Any]]
) -> None:
    with dag:
        clean_up(dag)
    xcoms = {
        ("gate", -1, "return_value"): "digits v3 is now champion",
        ("clean_up", -1, "return_value"): "cleaned",
    }
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor({}, xcoms), raising=False)
    callbacks.on_success({"dag": dag, "run_id": "r+1"})
    xcoms.clear()
    callbacks.on_success({"dag": dag, "run_id": "r+1"})
    assert [(one["severity"], one["text"]) for one in heard] == [
        ("info", "digits v3 is now champion"),
        ("info", ""),
    ]
