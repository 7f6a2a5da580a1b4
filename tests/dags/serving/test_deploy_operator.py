"""`DeployModelOperator`: the arguments that it passes to its trigger."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest
from airflow.sdk import DAG, task
from airflow.serialization.serialized_objects import DagSerialization
from conftest import PLATFORM_FILE
from trainyard.platform import PlatformError, load_platform
from trainyard.serving.operator import TRIGGER, DeployModelOperator
from trainyard.serving.trigger import DeployModelTrigger


@pytest.fixture
def dag() -> DAG:
    return DAG("d", schedule=None, start_date=datetime(2026, 1, 1))


def test_a_deploy_starts_in_the_triggerer(dag: DAG) -> None:
    with dag:

        @task
        def register() -> dict[str, str]:
            return {"version": "3"}

        registered = register()
        operator = DeployModelOperator(
            task_id="deploy", model="fraud", version=registered["version"], timeout=timedelta(minutes=3)
        )
    arguments = operator.start_trigger_args
    assert operator.start_from_trigger and arguments.trigger_cls == TRIGGER
    request = arguments.trigger_kwargs["request"]
    assert request["timeout_seconds"] == 180 and arguments.timeout > timedelta(minutes=3)
    assert "xcom_pull(task_ids='register', key='version'" in request["version"]
    assert operator.upstream_task_ids == {"register"}
    assert DeployModelTrigger(**arguments.trigger_kwargs).serialize() == (TRIGGER, {"request": request})
    decoded = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("deploy")
    assert decoded.start_from_trigger and decoded.start_trigger_args


def test_a_platform_that_serves_nothing_says_so_when_the_dag_is_parsed(
    dag: DAG, tmp_path, monkeypatch
) -> None:
    told = json.loads(PLATFORM_FILE.read_text())
    del told["serving"]
    file = tmp_path / "platform.json"
    file.write_text(json.dumps(told))
    monkeypatch.setenv("TRAINYARD_PLATFORM", str(file))
    assert load_platform().serving is None
    with dag, pytest.raises(PlatformError, match=r"serving\.enabled"):
        DeployModelOperator(task_id="deploy", model="fraud", version="3")
