"""Train, judge and promote a classifier of handwritten digits."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from trainyard.operators import (
    TrainingPodOperator,
    clean_up,
    dag_args,
    epochs_param,
    gate,
    in_chosen_pool,
    load_platform,
    model_name_param,
    nodes_param,
    notify,
    pool_param,
    promote,
    seed_param,
)

MODEL = "digits"
METRIC = "f1_macro"
PLATFORM = load_platform()
CHECKPOINTS = f"{PLATFORM.training.checkpoints.uri}/{{{{ run_key }}}}"

DOC = """
Trains a small convolutional network on scikit-learn's scanned handwritten digits.

`validate` and `preprocess` put a versioned data set into the lake, `train` runs on a GPU pod and resumes from
its last checkpoint after losing its node, `evaluate` measures it and the champion on the same held-out
data. `gate` compares macro F1 to the minimum and with the champion's; `promote` registers the model as
`champion` or `challenger`.

To try it: trigger it with other values below, or `./scripts/run digits_training --conf '{"epochs": 3}'`.
"""

PARAMS = {
    "dataset": Param(
        "sklearn://digits", type="string", minLength=1, maxLength=1000, description="URI of the raw data"
    ),
    "epochs": epochs_param("passes over the training data"),
    "learning_rate": Param(
        0.001, type="number", minimum=1e-9, maximum=10, description="of the Adam optimizer"
    ),
    "seed": seed_param("the same seed gives the same model"),
    "dropout": Param(
        0.25, type="number", minimum=0, maximum=0.9, description="share of neurons left out in each step"
    ),
    "nodes": nodes_param(),
    "pool": pool_param(PLATFORM),
    "memory": Param(
        PLATFORM.training.gpu_resources["limits"]["memory"],
        type="string",
        pattern="^[1-9][0-9]{0,5}(Mi|Gi)$",
        description="memory limit of the training pod; doubled once when it does not suffice",
    ),
    "fallback_after_seconds": Param(
        0,
        type="integer",
        minimum=0,
        maximum=86_400,
        description="train on a CPU when no GPU is there for so long; 0 waits for the GPU",
    ),
    "min_f1": Param(0.9, type="number", minimum=0, maximum=1, description="macro F1 that a champion needs"),
    "min_improvement": Param(
        0.005,
        type="number",
        minimum=0,
        maximum=1,
        description="by how much macro F1 must beat the champion's",
    ),
    "model_name": model_name_param(MODEL),
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
    **dag_args(),
) as dag:
    date = "{{ dag_run.run_after | ds }}"
    validate = TrainingPodOperator(
        task_id="validate",
        step="validate",
        dataset="{{ params.dataset }}",
        output_uri=PLATFORM.training.datasets.uri,
        step_params={"date": date},
        deadline=timedelta(minutes=15),
    )
    preprocess = TrainingPodOperator(
        task_id="preprocess",
        step="preprocess",
        dataset=validate.output["dataset"],
        output_uri=PLATFORM.training.datasets.uri,
        step_params={"date": date},
        deadline=timedelta(minutes=15),
    )
    train = TrainingPodOperator(
        task_id="train",
        step="train",
        dataset=preprocess.output["dataset"],
        output_uri=f"{CHECKPOINTS}/model",
        step_params={
            "model": MODEL,
            "epochs": "{{ params.epochs }}",
            "learning_rate": "{{ params.learning_rate }}",
            "seed": "{{ params.seed }}",
            "dropout": "{{ params.dropout }}",
            "epoch_seconds": "{{ params.epoch_seconds }}",
        },
        **in_chosen_pool(PLATFORM),
        nodes="{{ params.nodes }}",
        container_resources={"limits": {"memory": "{{ params.memory }}"}},
        fallback="{{ 'cpu' if params.fallback_after_seconds else none }}",
        fallback_after="{{ params.fallback_after_seconds }}",
        # A run on the spot pool that loses its node twice goes on where nobody takes nodes away.
        escalate_to=PLATFORM.default_pool,
        deadline=timedelta(hours=2),
    )
    evaluate = TrainingPodOperator(
        task_id="evaluate",
        step="evaluate",
        dataset=preprocess.output["dataset"],
        output_uri=f"{CHECKPOINTS}/evaluation",
        step_params={
            "model": MODEL,
            "model_uri": train.output["model_uri"],
            "champion": "{{ params.model_name }}",
        },
        deadline=timedelta(minutes=30),
    )
    model = "{{ params.model_name }}"
    decision = gate(
        evaluate.output,
        model=model,
        metric=METRIC,
        minimum="{{ params.min_f1 }}",
        min_improvement="{{ params.min_improvement }}",
    )
    promotion = promote(evaluate.output, decision, model=model, date=date)
    notify(promotion, evaluate.output)
    validate >> preprocess >> train >> evaluate
    clean_up(dag)
