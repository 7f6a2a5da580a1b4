"""The weekly fraud training on the cluster: data arrives, nine trials, a first champion that serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from conftest import Run, run_tags
from kubernetes import client
from trainyard_cli.airflow_api import Airflow
from trainyard_cli.mlflow_api import Mlflow, ModelVersion

pytestmark = pytest.mark.xdist_group("fraud")

DAG = "fraud_detection_training"
# A day on which no schedule delivers, so that nobody's data is replaced.
DAY = "2026-01-03"
TRIALS = range(9)


@pytest.fixture(scope="session")
def fraud_model(model_name: str) -> str:
    return f"{model_name}-fraud"


@pytest.fixture(scope="session")
def arrival(trigger: Callable[..., str], finish: Callable[..., Run]) -> Run:
    """A small delivery."""
    return finish(trigger("arrival", dag="data_arrival", rows=4000, data_date=DAY), dag="data_arrival")


@pytest.fixture(scope="session")
def fraud_run(arrival: Run, fraud_model: str, trigger: Callable[..., str], finish: Callable[..., Run]) -> Run:
    """The first training of a model: there is no champion yet."""
    conf = {"epochs": 2, "threshold": 0, "predict_after": True}
    return finish(trigger("fraud", dag=DAG, model_name=fraud_model, data_date=DAY, **conf), dag=DAG)


@pytest.fixture(scope="module", autouse=True)
def leave_no_server(fraud_model: str, core: client.CoreV1Api, platform: dict[str, Any]) -> Iterator[None]:
    """Each session deploys a model of its own: its server goes in the end."""
    yield
    namespace = platform["serving"]["namespace"]
    selector = f"app.kubernetes.io/instance={fraud_model}"
    client.AppsV1Api(core.api_client).delete_collection_namespaced_deployment(
        namespace, label_selector=selector
    )
    core.delete_collection_namespaced_service(namespace, label_selector=selector)


def test_three_deliveries_arrive_and_are_reported(arrival: Run, airflow: Airflow) -> None:
    assert arrival.state == "success", arrival.tasks
    assert [task["state"] for task in arrival.instances("generate")] == ["success"] * 3
    reported = {event["uri"]: event["extra"] for event in events(airflow, "data_arrival", arrival)}
    assert set(reported) == {f"s3://incoming/{name}" for name in ("transactions", "customers", "ratings")}
    assert reported["s3://incoming/transactions"]["date"] == DAY


def test_nine_trials_are_nested_under_the_run(fraud_run: Run, airflow: Airflow, mlflow: Mlflow) -> None:
    assert [task["state"] for task in fraud_run.instances("tuning.train")] == ["success"] * len(TRIALS)
    runs = [airflow.xcom(DAG, fraud_run.run_id, "tuning.train", "mlflow_run_id", index) for index in TRIALS]
    parents = {run_tags(mlflow, run)["mlflow.parentRunId"] for run in runs}
    assert len(set(runs)) == len(TRIALS) and len(parents) == 1
    scores = [airflow.xcom(DAG, fraud_run.run_id, "tuning.train", "score", index) for index in TRIALS]
    assert airflow.xcom(DAG, fraud_run.run_id, "tuning.select_best", "score") == max(scores)


def test_the_best_is_deployed_and_then_champion(
    fraud_run: Run, fraud_model: str, versions: Callable[..., list[ModelVersion]], airflow: Airflow
) -> None:
    assert fraud_run.state == "success", fraud_run.tasks
    states = {name: task["state"] for name, task in fraud_run.tasks.items()}
    assert states["skip.register_challenger"] == "skipped"
    for task_id in ("deploy.register", "deploy.rollout", "deploy.promote", "deploy.predict", "notify"):
        assert states[task_id] == "success"
    (version,) = versions(fraud_run.run_id, dag=DAG)
    assert (version.name, version.aliases) == (fraud_model, ("champion",))
    (event,) = [
        event
        for event in events(airflow, DAG, fraud_run)
        if event["uri"] == f"trainyard://models/{fraud_model}/champion"
    ]
    assert {"model": fraud_model, "version": version.version, "date": DAY}.items() <= event["extra"].items()


def test_one_that_is_no_better_is_a_challenger_and_updates_nothing(
    fraud_run: Run,
    fraud_model: str,
    trigger: Callable[..., str],
    finish: Callable[..., Run],
    versions: Callable[..., list[ModelVersion]],
    airflow: Airflow,
) -> None:
    conf = {"epochs": 1, "threshold": 0, "min_improvement": 1}
    again = finish(trigger("fraud-again", dag=DAG, model_name=fraud_model, data_date=DAY, **conf), dag=DAG)
    assert again.state == "success", again.tasks
    assert again.tasks["deploy.rollout"]["state"] == again.tasks["deploy.promote"]["state"] == "skipped"
    assert again.tasks["notify"]["state"] == "success"
    (version,) = versions(again.run_id, dag=DAG)
    assert version.aliases == ("challenger",)
    assert events(airflow, DAG, again) == []


def events(airflow: Airflow, dag: str, run: Run) -> list[dict[str, Any]]:
    """The asset events that a run left."""
    params = httpx.QueryParams({"source_dag_id": dag, "source_run_id": run.run_id})
    return list(airflow._get(f"/api/v2/assets/events?{params}")["asset_events"])
