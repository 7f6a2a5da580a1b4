"""Search for hyperparameters of any model: many short trainings, a few long ones, one winner."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, TaskGroup
from trainyard.operators import (
    DATE,
    STRATEGIES,
    TRIAL_DEADLINE,
    TrainingPodOperator,
    best_of_rounds,
    choose,
    clean_up,
    dag_args,
    data_date_param,
    epochs_param,
    first_round,
    in_chosen_pool,
    load_platform,
    notify,
    pool_param,
    promote,
    seed_param,
    space_param,
    split_param,
    survivors,
    train_trials,
)

RUNGS = 3  # rounds which the graph has; a run may use fewer
PLATFORM = load_platform()
# The models of the trainer, and what each learns from unless a run says otherwise.
SOURCES = {
    "characters": "pydoc://topics",
    "churn": "generator://customers",
    "digits": "sklearn://digits",
    "fraud": "generator://transactions",
    "recommendation": "generator://ratings",
    "residual": "sklearn://digits",
    "tumours": "sklearn://breast_cancer",
}
WITH_FEATURES = frozenset({"fraud"})
TRAIN = "rung_{}.train"  # the task that trains the trials of a round

DOC = """
Tries settings of a model's hyperparameters and registers the best as `challenger`.

`space` names the parameters: a list of values, or a range `{"low": 0.0001, "high": 0.1, "log": true}`.

| strategy | tries |
|---|---|
| `grid` | every combination of the listed values |
| `random` | `trials` random draws |
| `product` | every combination of the listed values, each with the same `trials` draws of the ranges |

**Successive halving** (`rungs`, `eta`): all trials train for a few epochs (`rung_1`), the best 1/`eta` of
them go on from their checkpoints for `eta` times as many (`rung_2`), and so on; the last round trains all
`epochs`. With `rungs` 1 every trial trains them all. A trial that fails is out, with its cause in the table
that `best` shows; only when all fail does the sweep.

Each trial is an MLflow run, nested under the sweep's, which gets the table as `sweep.md`.

**Refit**: the winner goes on to all `epochs` under the same run, from its checkpoint. Mostly it was there in
the last round already and nothing is trained twice; if all trials of that round failed, the best of the round
before is brought to the end. Then `evaluate` measures it on held-out data.

To try it: `./scripts/run hyperparameter_sweep --conf '{"space": {"learning_rate": [0.001, 0.01]}}'`.
"""

PARAMS = {
    "model": Param("fraud", type="string", enum=sorted(SOURCES), description="what to train"),
    "source": Param(
        "",
        type="string",
        pattern=r"^([a-z][a-z0-9]*://[^\s{}]{1,500})?$",
        description="URI of the data; empty for the model's own",
    ),
    "strategy": Param("grid", type="string", enum=list(STRATEGIES), description="how to choose settings"),
    "space": space_param(
        {"learning_rate": [0.0005, 0.002, 0.008], "batch_size": [128, 256, 512]},
        "per parameter a list of values or a range, see above",
    ),
    "trials": Param(
        9,
        type="integer",
        minimum=1,
        maximum=100_000,
        description="draws of random and product; core.max_map_length limits the trials in all",
    ),
    "seed": seed_param("of the draws and of every training"),
    "epochs": epochs_param("epochs of the last round"),
    "rungs": Param(
        RUNGS, type="integer", minimum=1, maximum=RUNGS, description="rounds of successive halving; 1: none"
    ),
    "eta": Param(
        3, type="integer", minimum=2, maximum=100, description="each round keeps 1/eta of the trials"
    ),
    "split": split_param("", "by what rows are split; empty for the model's own"),
    "pool": pool_param(PLATFORM),
    "model_name": Param(
        "",
        type="string",
        pattern=r"^[A-Za-z0-9._-]{0,100}$",
        description="name in the registry; empty for the model's own",
    ),
    "data_date": data_date_param(),
}

with DAG(
    "hyperparameter_sweep",
    description="Search for hyperparameters with successive halving",
    doc_md=DOC,
    tags=["training", "tuning", "gpu"],
    params=PARAMS,
    schedule=None,
    **dag_args(),
) as dag:
    to_lake: dict[str, Any] = {
        "output_uri": PLATFORM.training.datasets.uri,
        "step_params": {"model": "{{ params.model }}", "date": DATE, "split": "{{ params.split }}"},
        "deadline": timedelta(minutes=30),
    }

    with TaskGroup("data", tooltip="Versioned data sets in the lake"):
        validate = TrainingPodOperator(
            task_id="validate",
            step="validate",
            dataset=f"{{{{ params.source or {SOURCES}[params.model] }}}}",
            **to_lake,
        )

        # Not every model has features of its own.
        steps = choose(
            f"{{{{ params.model in {sorted(WITH_FEATURES)} }}}}",
            then=["data.preprocess", "data.features"],
            otherwise=["data.preprocess"],
            task_id="steps",
        )
        raw = validate.output["dataset"]
        preprocess = TrainingPodOperator(task_id="preprocess", step="preprocess", dataset=raw, **to_lake)
        features = TrainingPodOperator(task_id="features", step="features", dataset=raw, **to_lake)
        validate >> steps >> [preprocess, features]

    # Not by Airflow's own cross product (`expand(a=.., b=..)`): that crosses whole arguments of an operator,
    # while hyperparameters share one, and a trial needs a run key to come back to in the next round.
    # The whole result: of a task that was skipped, a single key of it would be an error.
    rounds: list[Any] = [first_round(features.output, task_id="candidates", trigger_rule="none_failed")]
    preprocess >> rounds[0]
    for rung in range(1, RUNGS + 1):
        with TaskGroup(f"rung_{rung}", tooltip=f"Round {rung} of successive halving"):
            trained = train_trials(
                rounds[-1], dataset=preprocess.output["dataset"], **in_chosen_pool(PLATFORM)
            )
            rounds.append(survivors(rung, rounds[0], rounds[-1], task=TRAIN.format(rung)))
            trained >> rounds[-1]
    last = rounds.pop()  # nobody trains after it

    winner = best_of_rounds(
        rounds, task_id="best", tasks=[TRAIN.format(rung) for rung in range(1, RUNGS + 1)]
    )
    last >> winner

    with TaskGroup("winner", tooltip="The best trial, as a model"):
        refit = TrainingPodOperator(
            task_id="refit",
            step="train",
            dataset=preprocess.output["dataset"],
            output_uri=winner["output_uri"],
            run_key=winner["run_key"],
            parent_run_key=winner["parent_run_key"],
            step_params=winner["step_params"],
            **in_chosen_pool(PLATFORM),
            deadline=TRIAL_DEADLINE,
        )
        evaluate = TrainingPodOperator(
            task_id="evaluate",
            step="evaluate",
            dataset=preprocess.output["dataset"],
            output_uri=f"{PLATFORM.training.checkpoints.uri}/{{{{ run_key }}}}/evaluation",
            run_key=winner["run_key"],
            parent_run_key=winner["parent_run_key"],
            step_params={
                "model": "{{ params.model }}",
                "model_uri": refit.output["model_uri"],
                "features_uri": winner["features_uri"],
            },
            deadline=timedelta(minutes=30),
        )

        # Whether it gets into production is not the sweep's to say.
        decision = {
            "passed": False,
            "reason": "the best of a sweep, which promotes nothing",
            "metric": evaluate.output["score"],
            "champion_metric": None,
        }
        challenger = promote(
            evaluate.output,
            decision,
            model="{{ params.model_name or params.model }}",
            date=DATE,
            task_id="register_challenger",
            trigger_rule="all_success",
        )

    notify(challenger, evaluate.output)
    clean_up(dag)
