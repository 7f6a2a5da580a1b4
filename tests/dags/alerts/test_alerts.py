"""Alerts against real local receivers, and what a failed run's alert holds."""

from __future__ import annotations

import json
import logging
import time
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
from receiver import Receiver, listening
from trainyard.alerts import callbacks, receivers
from trainyard.alerts.alert import Alert
from trainyard.alerts.callbacks import Failure
from trainyard.training.cleanup import clean_up
from trainyard.training.operator import TrainingPodOperator

ALERT = Alert("error", "it broke", "badly <&>", {"dag_id": "d"}, {"run": "http://airflow/run"}, key="d/r")
FAILURE = {
    "cause": "bad_data",
    "message": "labels: 3 rows have none",
    "events": ["Pulled: image"],
    "log": ["reading", "refused"],
    "pod": "d-validate-1",
    "node": "n1",
    "attempts": 1,
}


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory where the Secret is mounted; empty without one."""
    monkeypatch.setattr(receivers, "DIRECTORY", tmp_path / "alerts")
    monkeypatch.setattr(receivers, "PAUSES", (0.01, 0.01))
    (tmp_path / "alerts").mkdir()
    return tmp_path / "alerts"


def name_all(secret: Path, url: str) -> None:
    # A Secret's values often end in a newline.
    (secret / "slack-webhook-url").write_text(f"{url}/services/T0KEN\n")
    (secret / "pagerduty-routing-key").write_text("R0UTE\n")
    (secret / "pagerduty-url").write_text(f"{url}/enqueue\n")
    (secret / "webhook-url").write_text(f"{url}/hook?key=S3CRET\n")


def by_path(receiver: Receiver) -> dict[str, dict[str, Any]]:
    return dict(zip(receiver.paths, receiver.got, strict=True))


def test_every_receiver_gets_its_own_format(secret: Path) -> None:
    with listening() as receiver:
        name_all(secret, receiver.url)
        assert receivers.send(ALERT) == {"slack": "sent", "pagerduty": "sent", "webhook": "sent"}
    got = by_path(receiver)
    slack, pagerduty = got["/services/T0KEN"], got["/enqueue"]
    assert slack["text"].startswith("[error] it broke")
    assert [block["type"] for block in slack["blocks"]] == ["header", "section", "section"]
    assert slack["blocks"][1]["text"]["text"] == "```badly &lt;&amp;&gt;```"
    assert slack["blocks"][2]["text"]["text"] == "<http://airflow/run|run>"
    assert (pagerduty["routing_key"], pagerduty["event_action"]) == ("R0UTE", "trigger")
    assert pagerduty["dedup_key"] == "d/r"
    assert pagerduty["payload"].keys() >= {"summary", "source", "severity"}
    assert got["/hook?key=S3CRET"] == {
        "severity": "error",
        "title": "it broke",
        "text": "badly <&>",
        "key": "d/r",
        "details": {"dag_id": "d"},
        "links": {"run": "http://airflow/run"},
    }


def test_warnings_wake_nobody_up(secret: Path) -> None:
    with listening() as receiver:
        name_all(secret, receiver.url)
        assert set(receivers.send(Alert("warning", "slow"))) == {"slack", "webhook"}
    assert by_path(receiver)["/hook?key=S3CRET"]["key"] == "slow"


def test_without_a_secret_nothing_happens(secret: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret.rmdir()
    with caplog.at_level(logging.INFO):
        assert receivers.send(ALERT) == {}
    assert "names no receiver" in caplog.text


def test_a_receiver_that_stumbles_is_tried_again(secret: Path) -> None:
    with listening(503, 500, 200) as receiver:
        (secret / "webhook-url").write_text(receiver.url)
        assert receivers.send(ALERT) == {"webhook": "sent"}
    assert len(receiver.got) == 3


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (429, 3), (400, 1), (404, 1)])
def test_one_that_refuses_is_given_up(secret: Path, status: int, tries: int) -> None:
    with listening(status) as receiver:
        (secret / "webhook-url").write_text(receiver.url)
        assert receivers.send(ALERT) == {"webhook": f"HTTP {status}"}
    assert len(receiver.got) == tries


def test_a_redirect_is_not_followed(secret: Path) -> None:
    with listening() as elsewhere, listening(302, location=f"{elsewhere.url}/x") as receiver:
        (secret / "webhook-url").write_text(receiver.url)
        assert "final URL" in receivers.send(ALERT)["webhook"]
    assert len(receiver.got) == 1 and not elsewhere.got


@pytest.mark.parametrize(
    "url",
    [
        "hooks.example.com/S3CRET",
        "file:///etc/S3CRET",
        "http://[S3CRET",
        "http://127.0.0.1:port/S3CRET",
        "http://127.0.0.1:1/a b/S3CRET",
        "http://127.0.0.1:1/ä/S3CRET",
        "http://\x00/S3CRET",
    ],
)
def test_a_malformed_address_is_said_without_showing_it(
    secret: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    (secret / "webhook-url").write_text(url)
    with caplog.at_level(logging.DEBUG):
        (result,) = receivers.send(ALERT).values()
    assert result != "sent"
    assert "S3CRET" not in caplog.text + result


def test_what_is_down_or_hangs_costs_a_bounded_time_and_keeps_up_nobody_else(
    secret: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(receivers, "POST_SECONDS", 0.4)
    with listening("hang") as hanging, listening() as well:
        name_all(secret, well.url)
        (secret / "slack-webhook-url").write_text("http://127.0.0.1:9/services/T0KEN")  # nobody listens
        (secret / "pagerduty-url").write_text(f"{hanging.url}/enqueue")
        started = time.monotonic()
        with caplog.at_level(logging.DEBUG):
            results = receivers.send(ALERT)
        assert time.monotonic() - started < 7
    assert results["webhook"] == "sent"
    assert results["slack"] == "Connection refused"
    assert "no response" in results["pagerduty"]
    assert not [word for word in ("T0KEN", "R0UTE", "S3CRET") if word in caplog.text]


def test_not_even_a_lookup_that_hangs_holds_up_the_caller(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receivers, "TOTAL_SECONDS", 0.1)
    with listening("hang") as hanging:
        (secret / "webhook-url").write_text(hanging.url)
        started = time.monotonic()
        assert "no response" in receivers.send(ALERT)["webhook"]
        assert time.monotonic() - started < 5


def test_messages_fit_their_receivers() -> None:
    huge = Alert("error", "t" * 9999, "&" * 99_999, key="k" * 999)
    slack, pagerduty = receivers.slack_body(huge), receivers.pagerduty_body(huge, "key")
    assert len(slack["blocks"][0]["text"]["text"]) <= 150
    assert len(slack["blocks"][1]["text"]["text"]) <= 3000
    assert len(pagerduty["payload"]["summary"]) <= 1024 and len(pagerduty["dedup_key"]) <= 255


class Supervisor:
    """Airflow's side of a callback: answers what the dag-processor does, with its own models."""

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
