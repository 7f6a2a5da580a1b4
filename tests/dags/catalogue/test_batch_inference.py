"""batch_inference: what starts it, what it waits for, and where its predictions go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import data_arrival
import pytest
from airflow.providers.standard.exceptions import ExternalDagFailedError
from airflow.sdk import AssetOrTimeSchedule
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferralError
from batch_inference import dag, only_on_schedule
from trainyard.assets import champion
from trainyard_contract import NO_SPLIT


def test_it_runs_by_time_and_by_promotion() -> None:
    assert isinstance(dag.timetable, AssetOrTimeSchedule)
    assert dag.timetable.asset_condition == champion("fraud")
    assert dag.timetable.timetable.expression == "0 4 * * 1"


def test_a_scheduled_run_waits_for_that_days_data_arrival() -> None:
    sensor = dag.get_task("wait_for_arrival")
    assert sensor.deferrable and sensor.external_dag_id == data_arrival.dag.dag_id
    assert data_arrival.dag.timetable.expression == "0 1 * * 1"
    assert sensor.execution_delta == timedelta(hours=4 - 1)
    only_on_schedule({"dag_run": SimpleNamespace(run_type="scheduled")})
    for run_type in ("manual", "asset_triggered", "operator_triggered"):
        with pytest.raises(AirflowSkipException, match="triggered"):
            only_on_schedule({"dag_run": SimpleNamespace(run_type=run_type)})


def test_where_no_data_arrival_runs_it_goes_on_soon() -> None:
    sensor: Any = dag.get_task("wait_for_arrival")
    assert sensor.timeout <= timedelta(minutes=30).total_seconds()
    with pytest.raises(AirflowSkipException, match="no run of data_arrival ended in 0:30:00"):
        sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, {})
    # What was skipped lets `request` go on, what failed does not.
    assert sensor.downstream_task_ids == {"request"}
    assert dag.get_task("request").trigger_rule == "none_failed"


def test_a_failed_data_arrival_fails_it() -> None:
    sensor: Any = dag.get_task("wait_for_arrival")
    context = {"logical_date": datetime(2026, 11, 23, 4, tzinfo=UTC)}
    with pytest.raises(ExternalDagFailedError):
        sensor.resume_execution("execute_complete", {"event": {"status": "failed"}}, context)
    with pytest.raises(TaskDeferralError):
        sensor.resume_execution("__fail__", {"error": "Trigger failure"}, context)


def test_data_is_loaded_beside_the_model() -> None:
    request = dag.get_task("request")
    assert {"load.data.validate", "load.load_champion"} <= request.downstream_task_ids
    assert dag.get_task("load.load_champion").upstream_task_ids == {"request"}
    predict = dag.get_task("predict")
    assert {"load.data.validate", "load.data.features", "load.load_champion"} <= predict.upstream_task_ids
    assert predict.downstream_task_ids == {"summary"}


def test_data_to_predict_is_not_split() -> None:
    request = dag.get_task("load.data.validate").start_trigger_args.trigger_kwargs["request"]
    assert request["step_params"]["split"] == NO_SPLIT


def test_predictions_lie_by_day_and_version() -> None:
    request = dag.get_task("predict").start_trigger_args.trigger_kwargs["request"]
    assert request["output_uri"] == "file:///data"
    assert set(request["step_params"]) == {"model", "date", "features_uri", "model_uri", "model_version"}
    assert "task_ids='load.load_champion', key='version'" in request["step_params"]["model_version"]
