"""Train, judge and promote a classifier of handwritten digits."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task
from trainyard.naming import run_key
from trainyard.operators import TrainingPodOperator
from trainyard.platform import load_platform

MODEL = "digits"
METRIC = "f1_macro"
POOL = "ondemand"
PLATFORM = load_platform()

DOC = """
Trains a small convolutional network on scikit-learn's scanned handwritten digits.

`validate` and `preprocess` put a versioned data set into the lake, `train` runs on a GPU pod and resumes from
its last checkpoint after losing its node, `evaluate` measures on held-out data. `gate` compares macro F1 to
the minimum and with the champion's in MLflow; `promote` registers the model as `champion` or `challenger`.

To try it: trigger it with other values below, or `./scripts/run digits_training --conf '{"epochs": 3}'`.
"""

# Every number has both bounds, those of the trainer: Airflow 3.3.2's triggerer dies of integers over 64 bits,
# which JSON happily carries, and would die again on each restart.
PARAMS = {
    "epochs": Param(
        12, type="integer", minimum=1, maximum=10_000, description="passes over the training data"
    ),
    "learning_rate": Param(
        0.001, type="number", minimum=1e-9, maximum=10, description="of the Adam optimizer"
    ),
    "seed": Param(
        0, type="integer", minimum=0, maximum=2**31 - 1, description="the same seed gives the same model"
    ),
    "pool": Param(POOL, type="string", enum=sorted(PLATFORM.pools), description="GPU pool to train in"),
    "min_f1": Param(0.9, type="number", minimum=0, maximum=1, description="macro F1 that a champion needs"),
    "min_improvement": Param(
        0.005,
        type="number",
        minimum=0,
        maximum=1,
        description="by how much macro F1 must beat the champion's",
    ),
    "model_name": Param(
        MODEL,
        type="string",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="name in the registry; another name has a champion of its own",
    ),
    "epoch_seconds": Param(
        0,
        type="number",
        minimum=0,
        maximum=3600,
        description="least seconds per epoch, to watch a run or to disturb it",
    ),
}

with DAG(
    "digits_training",
    description="Handwritten digits: train on a GPU, gate, promote",
    doc_md=DOC,
    tags=["training", "digits", "gpu"],
    params=PARAMS,
    schedule=None,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    # Two runs at once would both be compared with the same champion.
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=12),
    default_args={
        "owner": "ml-platform",
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=10),
    },
) as dag:
    data_params = {"date": "{{ dag_run.run_after | ds }}"}
    validate = TrainingPodOperator(
        task_id="validate",
        step="validate",
        dataset="sklearn://digits",
        output_uri="file:///data",
        step_params=data_params,
        deadline=timedelta(minutes=15),
    )
    preprocess = TrainingPodOperator(
        task_id="preprocess",
        step="preprocess",
        dataset=validate.output["dataset"],
        output_uri="file:///data",
        step_params=data_params,
        deadline=timedelta(minutes=15),
    )
    train = TrainingPodOperator(
        task_id="train",
        step="train",
        dataset=preprocess.output["dataset"],
        output_uri="file:///checkpoints/{{ run_key }}/model",
        step_params={
            "model": MODEL,
            "epochs": "{{ params.epochs }}",
            "learning_rate": "{{ params.learning_rate }}",
            "seed": "{{ params.seed }}",
            "epoch_seconds": "{{ params.epoch_seconds }}",
        },
        gpu_pool="{{ params.pool }}",
        # Airflow's pool cannot follow a parameter: this one counts the task, the pod goes where it is told.
        pool=PLATFORM.pool(POOL).airflow_pool,
        deadline=timedelta(hours=2),
    )
    evaluate = TrainingPodOperator(
        task_id="evaluate",
        step="evaluate",
        dataset=preprocess.output["dataset"],
        output_uri="file:///checkpoints/{{ run_key }}/evaluation",
        step_params={"model": MODEL, "model_uri": train.output["model_uri"]},
        deadline=timedelta(minutes=30),
    )

    @task(execution_timeout=timedelta(minutes=5))
    def gate(evaluation: dict[str, Any]) -> dict[str, Any]:
        """Compare the model with the minimum and with the champion."""
        from trainyard.registry import champion_metric, connect, decide

        params = get_current_context()["params"]
        champion = champion_metric(connect(PLATFORM.training.tracking_uri), params["model_name"], METRIC)
        decision = decide(
            evaluation[METRIC],
            champion,
            minimum=params["min_f1"],
            min_improvement=params["min_improvement"],
        )
        print(f"gate {'passed' if decision.passed else 'not passed'}: {decision.reason}")
        return vars(decision)

    @task(execution_timeout=timedelta(minutes=5))
    def promote(evaluation: dict[str, Any], decision: dict[str, Any]) -> dict[str, Any]:
        """Register the model as champion or challenger."""
        from trainyard.registry import Gate, connect
        from trainyard.registry import promote as promote_model

        context = get_current_context()
        dag_run = context["dag_run"]
        promotion = promote_model(
            connect(PLATFORM.training.tracking_uri),
            model=context["params"]["model_name"],
            model_uri=evaluation["model_uri"],
            run_id=evaluation["mlflow_run_id"],
            run_key=run_key(dag_run.dag_id, dag_run.run_id),
            gate=Gate(**decision),
            tags={name: evaluation[name] for name in (METRIC, "accuracy", "data_version", "git_commit")},
        )
        return vars(promotion)

    @task(execution_timeout=timedelta(minutes=5))
    def notify(promotion: dict[str, Any], evaluation: dict[str, Any]) -> str:
        """Say what came of the run."""
        from trainyard import notify as notification

        dag_run = get_current_context()["dag_run"]
        text = notification.summary(
            dag_id=dag_run.dag_id, run_id=dag_run.run_id, promotion=promotion, metrics=evaluation
        )
        return notification.notify(text)

    decision = gate(evaluate.output)
    promotion = promote(evaluate.output, decision)
    notify(promotion, evaluate.output)
    validate >> preprocess >> train >> evaluate
