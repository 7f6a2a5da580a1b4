"""Batch inference on the cluster: by another DAG, and by the asset that a promotion updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Run
from pods import wait_until
from test_fraud_detection_training import DAY, arrival, fraud_model, fraud_run, leave_no_server  # noqa: F401
from trainyard_cli.airflow_api import Airflow

pytestmark = pytest.mark.xdist_group("fraud")

DAG = "batch_inference"


def test_a_promotion_can_trigger_it(
    fraud_run: Run,  # noqa: F811
    fraud_model: str,  # noqa: F811
    airflow: Airflow,
    finish: Callable[..., Run],
) -> None:
    run = finish(run_of(airflow, "operator_triggered", fraud_run, fraud_model), dag=DAG)
    assert run.state == "success", run.tasks
    assert run.tasks["wait_for_arrival"]["state"] == "skipped"
    prediction = airflow.xcom(DAG, run.run_id, "predict", "return_value")
    assert prediction["rows"] > 3000
    path = f"/data/predictions/fraud/date={DAY}/model_version={fraud_model}-1"
    assert prediction["output"] == f"file://{path}"


def test_the_asset_triggers_it_for_the_model_that_was_promoted(
    fraud_run: Run,  # noqa: F811
    fraud_model: str,  # noqa: F811
    airflow: Airflow,
    finish: Callable[..., Run],
) -> None:
    # The event as the promotion of `fraud` sends it, but for a model of this session: nobody's champion is
    # replaced by a test.
    found = airflow._get("/api/v2/assets", {"uri_pattern": "trainyard://models/fraud/champion"})
    (asset,) = [each for each in found["assets"] if each["uri"] == "trainyard://models/fraud/champion"]
    body = {"asset_id": asset["id"], "extra": {"model": fraud_model, "version": "1", "date": DAY}}
    airflow._request("POST", "/api/v2/assets/events", json=body)
    run = finish(run_of(airflow, "asset_triggered", fraud_run, fraud_model), dag=DAG)
    assert run.state == "success", run.tasks
    assert airflow.xcom(DAG, run.run_id, "request", "model") == fraud_model
    version = airflow.xcom(DAG, run.run_id, "predict", "model_version")
    assert version == f"{fraud_model}-1"


def test_a_model_without_champion_is_skipped_and_says_why(
    arrival: Run,  # noqa: F811
    model_name: str,
    trigger: Callable[..., str],
    finish: Callable[..., Run],
    airflow: Airflow,
) -> None:
    name = f"{model_name}-none"
    run = finish(trigger("no-champion", dag=DAG, model_name=name, data_date=DAY), dag=DAG)
    assert run.state == "success", run.tasks
    assert run.tasks["load.load_champion"]["state"] == run.tasks["predict"]["state"] == "skipped"
    log = str(airflow.log(DAG, run.run_id, "load.load_champion", 1))
    assert f"{name} has no champion yet: run fraud_detection_training" in log


def run_of(airflow: Airflow, run_type: str, after: Run, model: str) -> str:
    """The newest run of that type which began after another run did."""
    began = min(task["start_date"] for task in after.tasks.values() if task["start_date"])

    def started() -> Any:
        page = airflow._get(f"/api/v2/dags/{DAG}/dagRuns", {"order_by": "-run_after", "limit": 20})
        for run in page["dag_runs"]:
            mine = run["conf"].get("model_name", model) == model
            if run["run_type"] == run_type and run["run_after"] >= began and mine:
                return run["dag_run_id"]
        return None

    return str(wait_until(f"a run of {DAG} ({run_type}) to begin", started, seconds=120))
