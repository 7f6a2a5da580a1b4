"""The registry's control tasks on a real MLflow server; test_client.py has what they promote and why."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import mlflow
import pytest
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.context import OutletEventAccessors
from receiver import listening
from registered_models import ask, champion_of, run, trained
from trainyard.assets import CHAMPIONS, champion
from trainyard.registry import client as registry
from trainyard.registry import tasks
from trainyard.registry.client import decide

RUN_TAGS = ("triggered_by", "dag_id", "run_id", "run_url", "champion_by")


def context(run_type: str = "manual", user: str | None = "ada", run_id: str = "r") -> dict[str, Any]:
    """A run of the DAG `d` in the context that Airflow makes for its tasks."""
    dag_run = SimpleNamespace(
        dag_id="d",
        run_id=run_id,
        run_type=run_type,
        triggering_user_name=user,
        run_after=datetime(2026, 11, 21, tzinfo=UTC),
    )
    ti = SimpleNamespace(dag_id="d", run_id=run_id, task_id="promote", map_index=-1, try_number=1, id=uuid4())
    return {"dag_run": dag_run, "ti": ti, "outlet_events": OutletEventAccessors()}


def announced(of: dict[str, Any]) -> list[dict[str, Any]]:
    """What a task has announced of new champions."""
    return [event.extra for event in of["outlet_events"][CHAMPIONS].asset_alias_events]


def result_of(task: Any, *args: Any, **kwargs: Any) -> Any:
    return asyncio.run(task.function(*args, **kwargs))


def evaluation(client: mlflow.MlflowClient, f1: float) -> dict[str, Any]:
    about = trained(client, f1)
    return {"f1_macro": f1, "model_uri": about["model_uri"], "mlflow_run_id": about["run_id"]}


def test_the_gate_compares_on_the_data_of_the_evaluation(
    client: mlflow.MlflowClient, model: str, on_mlflow: str
) -> None:
    run(client, model, "k", 0.95)
    harder = {"f1_macro": 0.91, "champion": {"version": "1", "score": 0.85, "f1_macro": 0.85}}
    decision = result_of(
        tasks.gate, {}, harder, model=model, metric="f1_macro", minimum="0.9", min_improvement="0.005"
    )
    assert decision["passed"] and decision["reason"].endswith("v1 was measured on the same data")
    assert (decision["champion_metric"], decision["champion_version"]) == (0.85, "1")


def test_an_obsolete_verdict_releases_nothing(
    client: mlflow.MlflowClient, model: str, on_mlflow: str
) -> None:
    slow = trained(client, 0.95)
    gate = vars(decide(0.95, champion_of(client, model, "f1_macro"), minimum=0.9, min_improvement=0.005))
    registered = ask(client, registry.register, model=model, run_key="slow", **slow)
    version = {"model": model, "version": str(registered.version)}
    assert result_of(tasks.passed, {}, gate, version) is True
    assert result_of(tasks.passed, {}, {**gate, "passed": False}, version) is False
    run(client, model, "fast", 0.99)
    assert result_of(tasks.passed, {}, gate, version) is False


def test_a_new_champion_is_announced_at_least_once(
    client: mlflow.MlflowClient, model: str, on_mlflow: str
) -> None:
    found, where = evaluation(client, 0.95), context()
    assert result_of(tasks.register, where, found, model=model) == {"model": model, "version": "1"}
    verdict = vars(decide(0.95, None, minimum=0.9, min_improvement=0))
    promote: dict[str, Any] = {"evaluation": found, "decision": verdict, "model": model, "date": "2026-11-20"}
    promotion = result_of(tasks.promote, where, **promote)
    assert (promotion["version"], promotion["alias"], promotion["moved"]) == ("1", "champion", True)
    assert announced(where) == [{"model": model, "version": "1", "date": "2026-11-20"}]
    (event,) = where["outlet_events"][CHAMPIONS].asset_alias_events
    assert event.dest_asset_key.uri == champion(model).uri
    tags = client.get_model_version(model, "1").tags
    assert (tags["trainyard.triggered_by"], tags["trainyard.run_key"]) == ("ada", "d__r")
    # The task is repeated: the triggerer ended before Airflow had the event.
    again = context()
    assert result_of(tasks.promote, again, **promote)["moved"] is False
    assert announced(again) == announced(where)
    # A later run that is no better announces nothing.
    later = context(run_id="later")
    worse = vars(decide(0.95, champion_of(client, model, "f1_macro"), minimum=0.9, min_improvement=0.005))
    promote |= {"evaluation": evaluation(client, 0.95), "decision": worse}
    assert result_of(tasks.promote, later, **promote)["alias"] == "challenger"
    assert announced(later) == []


def test_a_champion_of_another_run_is_not_announced(
    client: mlflow.MlflowClient, model: str, on_mlflow: str
) -> None:
    found, by_hand = evaluation(client, 0.95), context(run_id="by_hand")
    version = result_of(tasks.register, context(), found, model=model)
    result_of(tasks.make_champion, by_hand, version)
    verdict = vars(decide(0.95, None, minimum=0.9, min_improvement=0))
    for _ in range(2):
        where = context()
        promotion = result_of(tasks.promote, where, found, verdict, model=model, date="2026-11-20")
        assert (promotion["alias"], promotion["moved"], announced(where)) == ("champion", False, [])


def test_a_rejection_makes_a_challenger(client: mlflow.MlflowClient, model: str, on_mlflow: str) -> None:
    verdict = vars(decide(0.95, None, minimum=0.9, min_improvement=0))
    answer = {
        "chosen_options": ["Reject"],
        "responded_at": "2026-11-21T13:00:00+00:00",
        "responded_by_user": {"name": "bob"},
    }
    where = context("scheduled", None)
    promotion = result_of(
        tasks.promote, where, evaluation(client, 0.95), verdict, answer, model=model, date="2026-11-20"
    )
    assert (promotion["alias"], announced(where)) == ("challenger", [])
    tags = client.get_model_version(model, "1").tags
    assert (tags["trainyard.approved_by"], tags["trainyard.triggered_by"]) == ("bob", "scheduled")


def test_a_promotion_links_the_model_to_its_version(
    client: mlflow.MlflowClient, model: str, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch, receive: Any
) -> None:
    verdict = vars(decide(0.95, None, minimum=0.9, min_improvement=0))
    monkeypatch.setattr(tasks, "connect", lambda: tasks.MlflowClient(mlflow_uri))
    with listening(201) as receiver:
        receive(receiver.url)
        result_of(tasks.promote, context(), evaluation(client, 0.95), verdict, model=model, date="2026-11-20")
    (event,) = receiver.got
    assert event["job"]["name"] == "d.promote"
    assert [each["name"] for each in event["outputs"]] == [model]


def test_a_person_can_make_a_version_champion(
    client: mlflow.MlflowClient, model: str, on_mlflow: str
) -> None:
    run(client, model, "first", 0.92)
    run(client, model, "second", 0.95)
    where = context()
    promotion = result_of(tasks.make_champion, where, {"model": model, "version": "1"})
    assert (promotion["reason"], promotion["moved"]) == ("deployed by d, run r", True)
    assert announced(where) == [{"model": model, "version": "1", "date": "2026-11-21"}]
    told = {name: client.get_model_version(model, "1").tags[f"trainyard.{name}"] for name in RUN_TAGS}
    assert told == {
        "triggered_by": "ada",
        "dag_id": "d",
        "run_id": "r",
        "run_url": "http://localhost:8080/dags/d/runs/r",
        "champion_by": "d__r",
    }
    again, other = context(), context(run_id="other")
    for repeated in (again, other):
        assert not result_of(tasks.make_champion, repeated, {"model": model, "version": "1"})["moved"]
    assert (announced(again), announced(other)) == (announced(where), [])


def test_predictions_are_those_of_the_champion(
    client: mlflow.MlflowClient, model: str, on_mlflow: str
) -> None:
    with pytest.raises(
        AirflowSkipException, match=f"{model} has no champion yet: run fraud_detection_training"
    ):
        result_of(
            tasks.champion_version, {}, model, trained_as="fraud", trained_by="fraud_detection_training"
        )
    run(client, model, "first", 0.92)
    found = {"uri": f"models:/{model}/1"}
    for trained_as, version in (("fraud", f"{model}-1"), (model, "1")):
        names = {"trained_as": trained_as, "trained_by": "some_training"}
        assert result_of(tasks.champion_version, {}, model, **names) == {**found, "version": version}
