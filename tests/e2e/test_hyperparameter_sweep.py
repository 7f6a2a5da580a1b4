"""A sweep on the cluster: a trial fails, the rest are halved, the winner goes on from its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conftest import Run, run_tags, wait_for_log
from trainyard_cli.airflow_api import Airflow
from trainyard_cli.mlflow_api import Mlflow, ModelVersion

DAG = "hyperparameter_sweep"
DIGITS = {"model": "digits", "epochs": 4, "eta": 2, "rungs": 2}
TOO_HIGH = 99  # no learning rate: the trainer refuses it as bad config


def test_a_failed_trial_is_out_and_the_best_goes_on(
    trigger: Callable[..., str],
    finish: Callable[..., Run],
    versions: Callable[..., list[ModelVersion]],
    airflow: Airflow,
    mlflow: Mlflow,
    model_name: str,
) -> None:
    conf: dict[str, Any] = {**DIGITS, "space": {"learning_rate": [0.00001, TOO_HIGH, 0.003]}}
    run = finish(trigger("sweep", dag=DAG, model_name=f"{model_name}-sweep", **conf), dag=DAG)
    assert run.state == "success", run.tasks

    assert [task["state"] for task in run.instances("rung_1.train")] == ["success", "failed", "success"]
    failure = airflow.xcom(DAG, run.run_id, "rung_1.train", "failure", 1)
    assert failure["cause"] == "bad_config" and "learning_rate" in failure["message"]
    assert airflow.xcom(DAG, run.run_id, "rung_1.train", "epochs", 0) == 2
    # The best of three goes on where it stopped, under the same MLflow run; the third round is not needed.
    (second,) = run.instances("rung_2.train")
    assert second["state"] == "success"
    assert airflow.xcom(DAG, run.run_id, "rung_2.train", "resumed_from_epoch", 0) == 2
    ids = [airflow.xcom(DAG, run.run_id, f"rung_{n}.train", "mlflow_run_id", i) for n, i in ((1, 2), (2, 0))]
    assert ids[0] == ids[1] == airflow.xcom(DAG, run.run_id, "winner.evaluate", "mlflow_run_id")
    assert run.tasks["rung_3.survivors"]["state"] == "skipped"
    assert airflow.xcom(DAG, run.run_id, "winner.refit", "resumed_from_epoch") == 4

    (version,) = versions(run.run_id, dag=DAG)
    assert version.aliases == ("challenger",)
    tags = run_tags(mlflow, run_tags(mlflow, ids[0])["mlflow.parentRunId"])
    assert (tags["trainyard.sweep_trials"], tags["trainyard.sweep_failed"]) == ("3", "1")


def test_when_all_trials_fail_the_sweep_says_why(
    trigger: Callable[..., str], finish: Callable[..., Run], airflow: Airflow
) -> None:
    conf: dict[str, Any] = {**DIGITS, "rungs": 1, "space": {"learning_rate": [TOO_HIGH]}}
    run = finish(trigger("sweep-fails", dag=DAG, **conf), dag=DAG)
    assert run.state == "failed"
    assert run.tasks["best"]["state"] == "failed"
    why = "no trial succeeded: trial 0: bad_config"
    wait_for_log(airflow, DAG, run.run_id, "best", why, try_number=run.tasks["best"]["try_number"])


def test_too_many_trials_are_refused_with_the_limit(
    trigger: Callable[..., str], finish: Callable[..., Run], airflow: Airflow
) -> None:
    space = {"learning_rate": [0.001] * 40, "batch_size": [64] * 40}
    run = finish(trigger("sweep-too-many", dag=DAG, model="digits", space=space), dag=DAG)
    assert run.state == "failed"
    why = "1600 trials are more than Airflow maps over (1024, core.max_map_length)"
    wait_for_log(airflow, DAG, run.run_id, "candidates", why)
