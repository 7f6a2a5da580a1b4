"""Control tasks of a sweep: what to try, what goes on, and which trial wins."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context

from trainyard.mlflow_client import MlflowClient
from trainyard.platform import load_platform
from trainyard.triggerer.control import control_task
from trainyard.tuning import search_space, sweep

log = logging.getLogger(__name__)
Trials = Sequence[Mapping[str, Any]]


@control_task()
async def candidates(
    context: Context, features_uri: str, *, model: str, space: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Every combination of `space`, as arguments of the training tasks.

    Epochs and seed are the run's params.
    """
    settings = search_space.settings("grid", space, trials=1, seed=0)
    return sweep.trials_of_run(context, settings, model=model, features_uri=features_uri)


@control_task(trigger_rule="all_done_min_one_success")
async def select_best(context: Context, trials: Trials, *, task: str) -> dict[str, Any]:
    """The trial with the best validation score, of those that the mapped task `task` trained.

    Failed trials do not matter as long as one succeeded.
    """
    dag_run = context["dag_run"]
    outcomes = await sweep.collect(dag_run.dag_id, dag_run.run_id, task, trials)
    log.info("%s", sweep.table([outcomes]))
    best = sweep.best([outcomes])
    return {**best.arguments, "model_uri": best.result["model_uri"], "score": best.score}


@control_task()
async def first_round(context: Context, features: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The settings that the run's params ask for, as arguments of the first round's training tasks."""
    params = context["params"]
    settings = search_space.settings(params["strategy"], params["space"], params["trials"], params["seed"])
    uri = features["dataset"] if features else ""
    trials = sweep.trials_of_run(context, settings, model=params["model"], features_uri=uri)
    first, *_ = plan = _rungs(context, trials)
    rounds = ", ".join(f"{rung.trials} trials to epoch {rung.epochs}" for rung in plan)
    log.info("rounds: %s", rounds)
    return [sweep.until(trial, first) for trial in trials]


@control_task(trigger_rule="all_done_min_one_success")
async def survivors(
    context: Context, rung: int, first: Trials, trials: Trials, *, task: str
) -> list[dict[str, Any]]:
    """The best of `trials`, which `task` trained in round `rung`, for the next; none if it was the last.

    `first` are the trials of the first round.
    """
    dag_run = context["dag_run"]
    plan = _rungs(context, first)
    outcomes = await sweep.collect(dag_run.dag_id, dag_run.run_id, task, trials)
    log.info("%s", sweep.table([outcomes]))
    if rung == len(plan):
        return []
    following = plan[rung]
    return [sweep.until(trial.arguments, following) for trial in sweep.ranked(outcomes)[: following.trials]]


@control_task(trigger_rule="none_failed")
async def best_of_rounds(
    context: Context, rounds: Sequence[Trials | None], *, tasks: Sequence[str]
) -> dict[str, Any]:
    """Show all trials, and take the best one of the last round; `tasks` trained the `rounds`."""
    dag_run = context["dag_run"]
    outcomes = [
        await sweep.collect(dag_run.dag_id, dag_run.run_id, task, trials)
        for task, trials in zip(tasks, rounds, strict=True)
    ]
    table = sweep.table(outcomes)
    log.info("%s", table)
    winner = sweep.best(outcomes)
    failed = sum(bool(trial.error) for trials in outcomes for trial in trials)
    tags = {"trials": len(outcomes[0]), "failed": failed, "best": winner.key, "score": winner.score}
    async with MlflowClient(load_platform().training.tracking_uri) as mlflow:
        await sweep.record(mlflow, dag_run.dag_id, winner.arguments["parent_run_key"], table, tags)
    whole = {**winner.arguments["step_params"], "stop_after": 0}
    return {**winner.arguments, "step_params": whole, "features_uri": whole["features_uri"]}


def _rungs(context: Context, trials: Trials) -> list[sweep.Rung]:
    params = context["params"]
    return sweep.rungs(len(trials), params["epochs"], params["rungs"], params["eta"])
