"""Fraud on the cluster: data arrives, nine trials, a first champion that serves, and its predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Run, run_tags, wait_for_log
from kubernetes import client
from pods import wait_until
from trainyard_cli.airflow_api import Airflow
from trainyard_cli.mlflow_api import Mlflow, ModelVersion

DAG = "fraud_detection_training"
INFERENCE = "batch_inference"
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
    one_setting = {"learning_rate": [0.002], "hidden": [16]}
    conf = {"epochs": 1, "space": one_setting, "threshold": 0, "min_improvement": 1}
    again = finish(trigger("fraud-again", dag=DAG, model_name=fraud_model, data_date=DAY, **conf), dag=DAG)
    assert again.state == "success", again.tasks
    assert again.tasks["deploy.rollout"]["state"] == again.tasks["deploy.promote"]["state"] == "skipped"
    assert again.tasks["notify"]["state"] == "success"
    (version,) = versions(again.run_id, dag=DAG)
    assert version.aliases == ("challenger",)
    assert events(airflow, DAG, again) == []


def test_a_promotion_can_trigger_it(
    fraud_run: Run,
    fraud_model: str,
    airflow: Airflow,
    finish: Callable[..., Run],
) -> None:
    run = finish(run_of(airflow, "operator_triggered", fraud_run, fraud_model), dag=INFERENCE)
    assert run.state == "success", run.tasks
    assert run.tasks["wait_for_arrival"]["state"] == "skipped"
    prediction = airflow.xcom(INFERENCE, run.run_id, "predict", "return_value")
    assert prediction["rows"] > 3000
    path = f"/data/predictions/fraud/date={DAY}/model_version={fraud_model}-1"
    assert prediction["output"] == f"file://{path}"


def test_the_asset_triggers_it_for_the_model_that_was_promoted(
    fraud_run: Run,
    fraud_model: str,
    airflow: Airflow,
    finish: Callable[..., Run],
) -> None:
    # The event as the promotion of `fraud` sends it, but for a model of this session: nobody's champion is
    # replaced by a test.
    found = airflow.get("/api/v2/assets", {"uri_pattern": "trainyard://models/fraud/champion"})
    (asset,) = [each for each in found["assets"] if each["uri"] == "trainyard://models/fraud/champion"]
    body = {"asset_id": asset["id"], "extra": {"model": fraud_model, "version": "1", "date": DAY}}
    airflow.request("POST", "/api/v2/assets/events", json=body)
    run = finish(run_of(airflow, "asset_triggered", fraud_run, fraud_model), dag=INFERENCE)
    assert run.state == "success", run.tasks
    assert airflow.xcom(INFERENCE, run.run_id, "request", "model") == fraud_model
    version = airflow.xcom(INFERENCE, run.run_id, "predict", "model_version")
    assert version == f"{fraud_model}-1"


def test_a_model_without_champion_is_skipped_and_says_why(
    arrival: Run,
    model_name: str,
    trigger: Callable[..., str],
    finish: Callable[..., Run],
    airflow: Airflow,
) -> None:
    name = f"{model_name}-none"
    run = finish(trigger("no-champion", dag=INFERENCE, model_name=name, data_date=DAY), dag=INFERENCE)
    assert run.state == "success", run.tasks
    assert run.tasks["load.load_champion"]["state"] == run.tasks["predict"]["state"] == "skipped"
    why = f"{name} has no champion yet: run fraud_detection_training"
    wait_for_log(airflow, INFERENCE, run.run_id, "load.load_champion", why)


def run_of(airflow: Airflow, run_type: str, after: Run, model: str) -> str:
    """The newest run of that type which began after another run did."""
    began = min(task["start_date"] for task in after.tasks.values() if task["start_date"])

    def started() -> Any:
        page = airflow.get(f"/api/v2/dags/{INFERENCE}/dagRuns", {"order_by": "-run_after", "limit": 20})
        for run in page["dag_runs"]:
            mine = run["conf"].get("model_name", model) == model
            if run["run_type"] == run_type and run["run_after"] >= began and mine:
                return run["dag_run_id"]
        return None

    return str(wait_until(f"a run of {INFERENCE} ({run_type}) to begin", started, seconds=120))


def events(airflow: Airflow, dag: str, run: Run) -> list[dict[str, Any]]:
    """The asset events that a run left."""
    source = {"source_dag_id": dag, "source_run_id": run.run_id}
    return list(airflow.get("/api/v2/assets/events", source)["asset_events"])
