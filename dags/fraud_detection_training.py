"""Find fraudulent card transactions: wait for data, try nine settings, deploy the best if it is better."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Param, TaskGroup
from trainyard.operators import (
    CONNECTION,
    DATE,
    DeployModelOperator,
    TrainingPodOperator,
    WaitForObjectOperator,
    candidates,
    choose,
    clean_up,
    dag_args,
    data_date_param,
    epochs_param,
    gate,
    in_chosen_pool,
    incoming,
    incoming_marker,
    incoming_uri,
    load_platform,
    model_name_param,
    notify,
    only_if,
    pool_param,
    promote,
    register,
    seed_param,
    select_best,
    space_param,
    split_param,
    train_trials,
)

MODEL = "fraud"
METRIC = "average_precision"  # one in fifty is fraud: accuracy would be 98 % for a model that finds none
SOURCE = "transactions"
# Nine settings, unless a run says otherwise.
SPACE = {"learning_rate": [0.0005, 0.002, 0.008], "hidden": [16, 32, 64]}
PATIENCE = timedelta(hours=6)
PLATFORM = load_platform()
DATASETS = PLATFORM.training.datasets.uri

DOC = """
Trains the fraud model on the week's card transactions, and deploys it if it beats the one in production.

1. `wait_for_data`: until the day's transactions are in `s3://incoming` (six hours at most; no worker waits).
2. `data`: `validate`, which also checks the split for leakage, then cleaning (`preprocess`) beside feature
   engineering (`features`).
3. `tuning`: every combination of the values in `space`, nine by default, each trained on a GPU pod and nested
   in MLflow under the run. `select_best` takes the best validation score; failed trials do not matter as long
   as one succeeded.
4. `judgement`: the best model and the production champion on the same held-out data: the latest days, with
   `split` `time`. It must reach
   `threshold` and be better by more than `min_improvement`. Without a champion there is nothing to beat.
5. `deploy`: registers the version, rolls it out (and back if it does not serve), then names it `champion`.
   `skip` registers it as `challenger` instead.
6. `notify` says what came of it.

A new champion updates the asset `trainyard://models/fraud/champion`, upon which `batch_inference` runs.

To try it: `./scripts/run data_arrival`, then `./scripts/run fraud_detection_training --conf '{"epochs": 3}'`.
"""

SHARE: dict[str, Any] = {"type": "number", "maximum": 1}
PARAMS = {
    "epochs": epochs_param("passes over the data, of each trial"),
    "space": space_param(
        SPACE, "per parameter the values to try; every combination is trained", ranges=False
    ),
    "seed": seed_param("the same seed gives the same models"),
    "split": split_param(
        "time",
        "time: train on the earlier days, test on the latest; group: no card is in both; random: neither",
    ),
    "pool": pool_param(PLATFORM),
    "threshold": Param(0.3, **SHARE, minimum=0, description=f"{METRIC} that a champion needs"),
    "min_improvement": Param(
        0.005,
        **SHARE,
        minimum=-1,
        description=f"by more than how much {METRIC} must beat the champion's; below 0 a fresher model "
        "may be a little worse",
    ),
    "model_name": model_name_param(MODEL),
    "data_date": data_date_param(),
    "predict_after": Param(
        False,
        type="boolean",
        description="trigger batch_inference with a model that was promoted; for another model_name than "
        f"{MODEL}, whose asset does that anyway",
    ),
}

with DAG(
    "fraud_detection_training",
    description="Card fraud: wait for data, tune on GPUs, deploy the best",
    doc_md=DOC,
    tags=["training", "fraud", "gpu"],
    params=PARAMS,
    schedule="0 2 * * 1",
    **dag_args(),
) as dag:
    model_name = "{{ params.model_name }}"
    data_params = {"model": MODEL, "date": DATE, "split": "{{ params.split }}"}

    wait_for_data = WaitForObjectOperator(
        task_id="wait_for_data",
        uri=incoming_marker(SOURCE),
        connection=CONNECTION,
        patience=PATIENCE,
        inlets=[incoming(SOURCE)],
        doc_md=f"Fails after {PATIENCE}, without another try, when nothing arrives: look at `data_arrival`.",
    )

    with TaskGroup("data", tooltip="Versioned data sets in the lake") as data:
        validate = TrainingPodOperator(
            task_id="validate",
            step="validate",
            dataset=incoming_uri(SOURCE),
            output_uri=DATASETS,
            step_params=data_params,
            deadline=timedelta(minutes=30),
        )
        preprocess, features = (
            TrainingPodOperator(
                task_id=step,
                step=step,
                dataset=validate.output["dataset"],
                output_uri=DATASETS,
                step_params=data_params,
                deadline=timedelta(minutes=30),
            )
            for step in ("preprocess", "features")
        )

    with TaskGroup("tuning", tooltip="Every setting, and the best of them"):
        trials = candidates(features.output["dataset"], model=MODEL, space="{{ params.space }}")
        train = train_trials(trials, dataset=preprocess.output["dataset"], **in_chosen_pool(PLATFORM))

        best = select_best(trials, task="tuning.train")
        train >> best

    with TaskGroup("judgement", tooltip="Held-out data, and the champion"):
        evaluate = TrainingPodOperator(
            task_id="evaluate",
            step="evaluate",
            dataset=preprocess.output["dataset"],
            output_uri=f"{PLATFORM.training.checkpoints.uri}/{{{{ run_key }}}}/evaluation",
            run_key=best["run_key"],
            parent_run_key=best["parent_run_key"],
            step_params={
                "model": MODEL,
                "model_uri": best["model_uri"],
                "features_uri": features.output["dataset"],
                "champion": model_name,
            },
            deadline=timedelta(minutes=30),
        )
        decision = gate(
            evaluate.output,
            task_id="compare",
            model=model_name,
            metric=METRIC,
            minimum="{{ params.threshold }}",
            min_improvement="{{ params.min_improvement }}",
        )

    with TaskGroup("deploy", tooltip="The champion is what serves") as deploy:
        version = register(evaluate.output, model=model_name)
        rollout = DeployModelOperator(task_id="rollout", model=model_name, version=version["version"])
        # Not its own rule none_failed: the group is skipped as a whole.
        promoted = promote(evaluate.output, decision, model=model_name, date=DATE, trigger_rule="all_success")

        predict_after = only_if("{{ params.predict_after }}", task_id="predict_after")
        predict = TriggerDagRunOperator(
            task_id="predict",
            trigger_dag_id="batch_inference",
            conf={"model_name": model_name, "data_date": DATE},
            execution_timeout=timedelta(minutes=5),
        )
        version >> rollout >> promoted >> predict_after >> predict

    with TaskGroup("skip", tooltip="Not good enough") as skip:
        challenger = promote(
            evaluate.output,
            decision,
            model=model_name,
            date=DATE,
            task_id="register_challenger",
            trigger_rule="all_success",
        )

    wait_for_data >> data
    route = choose(decision["passed"], then="deploy", otherwise="skip", task_id="route")
    route >> [deploy, skip]
    notify(promoted, evaluate.output, challenger, trigger_rule="none_failed_min_one_success")
    clean_up(dag)
