"""Search for hyperparameters of any model: many short trainings, a few long ones, one winner."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, TaskGroup, get_current_context, task
from trainyard.assets import DATASETS, DATE
from trainyard.defaults import dag_args
from trainyard.factory.pipeline import notify, promote
from trainyard.params import data_date_param, epochs_param, in_chosen_pool, pool_param, seed_param
from trainyard.platform import load_platform
from trainyard.training.cleanup import clean_up
from trainyard.training.operator import TrainingPodOperator
from trainyard.tuning import search_space, sweep

POOL = "ondemand"
SHORT = timedelta(minutes=5)
RUNGS = 3  # rounds which the graph has; a run may use fewer
PLATFORM = load_platform()
# The models of the trainer, and what each learns from unless a run says otherwise.
SOURCES = {
    "churn": "generator://customers",
    "digits": "sklearn://digits",
    "fraud": "generator://transactions",
    "recommendation": "generator://ratings",
    "tumours": "sklearn://breast_cancer",
}
WITH_FEATURES = frozenset({"fraud"})

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

# Any value that is no list or object; numbers are bounded, as everywhere (see trainyard.params).
VALUE = {"type": ["boolean", "number", "string"], "minimum": -1e15, "maximum": 1e15}
PARAMS = {
    "model": Param("fraud", type="string", enum=sorted(SOURCES), description="what to train"),
    "source": Param(
        "",
        type="string",
        pattern=r"^([a-z][a-z0-9]*://[^\s{}]{1,500})?$",
        description="URI of the data; empty for the model's own",
    ),
    "strategy": Param(
        "grid", type="string", enum=list(search_space.STRATEGIES), description="how to choose settings"
    ),
    "space": Param(
        {"learning_rate": [0.0005, 0.002, 0.008], "batch_size": [128, 256, 512]},
        type="object",
        additionalProperties={"type": ["array", "object"], "items": VALUE, "additionalProperties": VALUE},
        description="per parameter a list of values or a range, see above",
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
    "pool": pool_param(PLATFORM, POOL),
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
        "output_uri": DATASETS,
        "step_params": {"model": "{{ params.model }}", "date": DATE},
        "deadline": timedelta(minutes=30),
    }

    with TaskGroup("data", tooltip="Versioned data sets in the lake"):
        validate = TrainingPodOperator(
            task_id="validate",
            step="validate",
            dataset=f"{{{{ params.source or {SOURCES}[params.model] }}}}",
            **to_lake,
        )

        @task.branch(execution_timeout=SHORT)
        def steps() -> list[str]:
            """Not every model has features of its own."""
            has_features = get_current_context()["params"]["model"] in WITH_FEATURES
            return ["data.preprocess", *(["data.features"] if has_features else [])]

        raw = validate.output["dataset"]
        preprocess = TrainingPodOperator(task_id="preprocess", step="preprocess", dataset=raw, **to_lake)
        features = TrainingPodOperator(task_id="features", step="features", dataset=raw, **to_lake)
        validate >> steps() >> [preprocess, features]

    # Not by Airflow's own cross product (`expand(a=.., b=..)`): that crosses whole arguments of an operator,
    # while hyperparameters share one, and a trial needs a run key to come back to in the next round.
    @task(execution_timeout=SHORT, trigger_rule="none_failed")
    def candidates(features: dict[str, Any] | None) -> list[dict[str, Any]]:
        """The settings to try, as arguments of the first round's training tasks."""
        context: Any = get_current_context()
        params = context["params"]
        settings = search_space.settings(
            params["strategy"], params["space"], params["trials"], params["seed"]
        )
        trials = sweep.trials_of_run(
            context,
            settings,
            model=params["model"],
            features_uri=features["dataset"] if features else "",
        )
        first, *_ = plan = sweep.rungs(len(trials), params["epochs"], params["rungs"], params["eta"])
        print("rounds:", ", ".join(f"{rung.trials} trials to epoch {rung.epochs}" for rung in plan))
        return [sweep.until(trial, first) for trial in trials]

    @task(execution_timeout=SHORT, trigger_rule="all_done_min_one_success")
    def survivors(rung: int, first: list[Any], trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The best trials of round `rung`, to go on in the next; none if it was the last."""
        context = get_current_context()
        params = context["params"]
        plan = sweep.rungs(len(first), params["epochs"], params["rungs"], params["eta"])
        outcomes = sweep.collect(context["ti"], f"rung_{rung}.train", trials)
        print(sweep.table([outcomes]))
        if rung == len(plan):
            return []
        following = plan[rung]
        return [
            sweep.until(trial.arguments, following) for trial in sweep.ranked(outcomes)[: following.trials]
        ]

    # The whole result: of a task that was skipped, a single key of it would be an error.
    rounds: list[Any] = [candidates(features.output)]
    preprocess >> rounds[0]
    for rung in range(1, RUNGS + 1):
        with TaskGroup(f"rung_{rung}", tooltip=f"Round {rung} of successive halving"):
            trained = sweep.train_trials(
                rounds[-1], dataset=preprocess.output["dataset"], **in_chosen_pool(PLATFORM, POOL)
            )
            rounds.append(survivors(rung, rounds[0], rounds[-1]))
            trained >> rounds[-1]
    last = rounds.pop()  # nobody trains after it

    @task(execution_timeout=SHORT, trigger_rule="none_failed")
    def best(rounds: list[list[dict[str, Any]] | None]) -> dict[str, Any]:
        """Show all trials, and take the best one of the last round."""
        from trainyard.registry.client import connect

        ti = get_current_context()["ti"]
        outcomes = [sweep.collect(ti, f"rung_{rung}.train", trials) for rung, trials in enumerate(rounds, 1)]
        table = sweep.table(outcomes)
        print(table)
        winner = sweep.best(outcomes)
        failed = sum(bool(trial.error) for trials in outcomes for trial in trials)
        parent = winner.arguments["parent_run_key"]
        tags = {"trials": len(outcomes[0]), "failed": failed, "best": winner.key, "score": winner.score}
        sweep.record(connect(PLATFORM.training.tracking_uri), ti.dag_id, parent, table, tags)
        whole = {**winner.arguments["step_params"], "stop_after": 0}
        return {**winner.arguments, "step_params": whole, "features_uri": whole["features_uri"]}

    winner: Any = best(rounds)
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
            **in_chosen_pool(PLATFORM, POOL),
            deadline=sweep.TRIAL_DEADLINE,
        )
        evaluate = TrainingPodOperator(
            task_id="evaluate",
            step="evaluate",
            dataset=preprocess.output["dataset"],
            output_uri="file:///checkpoints/{{ run_key }}/evaluation",
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
        challenger: Any = promote.override(task_id="register_challenger", trigger_rule="all_success")(
            evaluate.output, decision, model="{{ params.model_name or params.model }}", date=DATE
        )

    notify(challenger, evaluate.output)
    clean_up(dag)
