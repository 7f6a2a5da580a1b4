"""Sweeps: how long each setting of hyperparameters is tried, what became of it, and which one wins.

A trial is the dict of arguments with which its instance of the mapped training task differs. Which settings
there are is `search_space`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from trainyard_contract import RUN_KEY_SEPARATOR, TAG_PREFIX, Tag

from trainyard.airflow_compat import aread_xcom, atask_states
from trainyard.failures import TaskFailed
from trainyard.mlflow_client import MlflowClient
from trainyard.naming import run_key, safe_key
from trainyard.platform import load_platform
from trainyard.training.operator import TrainingPodOperator
from trainyard.tuning.search_space import Settings, is_number

TRIAL_DEADLINE = timedelta(hours=2)
READS_AT_ONCE = 16  # all triggers of a triggerer share its connection to the database


@dataclass(frozen=True)
class Rung:
    """One round of successive halving: how many trials take part, and up to which epoch they train."""

    trials: int
    epochs: int


@dataclass(frozen=True)
class Trial:
    """What became of a trial: the training task's arguments, and its result or why there is none."""

    arguments: Mapping[str, Any]
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def key(self) -> str:
        """The key of its MLflow run."""
        return str(self.arguments["run_key"])

    @property
    def score(self) -> float:
        """The validation score that trials are compared by."""
        return float(self.result["score"])


def rungs(trials: int, epochs: int, number: int, eta: int) -> list[Rung]:
    """At most `number` rounds of successive halving: each keeps 1/`eta` of the trials, `eta` times as long.

    The last one trains all `epochs`. With few epochs there are fewer rounds, since each must add an epoch.
    """
    budgets = sorted({math.ceil(epochs / eta**back) for back in range(number)})
    return [Rung(max(1, trials // eta**index), budget) for index, budget in enumerate(budgets)]


def trials_of_run(
    context: Mapping[str, Any], settings: Iterable[Settings], *, model: str, features_uri: str
) -> list[dict[str, Any]]:
    """Arguments of a run's training tasks, one for each of `settings`, with the run's epochs and seed."""
    params, dag_run = context["params"], context["dag_run"]
    parent = run_key(dag_run.dag_id, dag_run.run_id)
    common = {
        "model": model,
        "epochs": params["epochs"],
        "seed": params["seed"],
        "features_uri": features_uri,
    }
    return [
        trial_arguments(number, trial, parent=parent, common=common) for number, trial in enumerate(settings)
    ]


def trial_arguments(number: int, trial: Settings, *, parent: str, common: Settings) -> dict[str, Any]:
    """Arguments of the training task for trial `number`, an MLflow run of its own under the run `parent`."""
    key = safe_key(f"{parent}{RUN_KEY_SEPARATOR}trial-{number}")
    return {
        "run_key": key,
        "parent_run_key": parent,
        "output_uri": f"{load_platform().training.checkpoints.uri}/{key}/model",
        "step_params": {**common, **trial},
    }


def until(arguments: Mapping[str, Any], rung: Rung) -> dict[str, Any]:
    """The arguments of the same trial, to train up to the end of `rung` from where it stopped."""
    epochs = arguments["step_params"]["epochs"]
    stop_after = rung.epochs if rung.epochs < epochs else 0  # 0: all epochs, and a model at the end
    return {**arguments, "step_params": {**arguments["step_params"], "stop_after": stop_after}}


def train_trials(trials: Any, *, dataset: Any, **in_pool: str) -> Any:
    """The mapped task `train`: one training on `dataset` for each of `trials`, the output of another task."""
    return TrainingPodOperator.partial(
        task_id="train", step="train", dataset=dataset, deadline=TRIAL_DEADLINE, **in_pool
    ).expand_kwargs(trials)


async def collect(
    dag_id: str, run_id: str, task_id: str, arguments: Sequence[Mapping[str, Any]] | None
) -> list[Trial]:
    """What became of the instances of the mapped training task `task_id`; [] if it was never mapped.

    Each has a request of its own: a mapped task's outputs, read all at once, come without those of failed
    instances, and so without saying whose they are; a trigger cannot read them at once anyway.
    """
    if not arguments:
        return []
    states = await atask_states(dag_id, run_id, task_ids=[task_id])
    room = asyncio.Semaphore(READS_AT_ONCE)

    async def outcome(index: int, trial: Mapping[str, Any]) -> Trial:
        # The state decides, for a task that was cleared may have left a result of its first time.
        state = states.get(f"{task_id}_{index}", "not started")
        key = "return_value" if state == "success" else "failure"
        async with room:
            found = await aread_xcom(dag_id, run_id, task_id, key, index)
        return judge(trial, state, found if state == "success" else None, found)

    return await asyncio.gather(*(outcome(index, trial) for index, trial in enumerate(arguments)))


def judge(arguments: Mapping[str, Any], state: str, result: Any, failure: Any) -> Trial:
    """The trial's outcome; a score which is no finite number is a failure: it would win or lose by chance."""
    if state != "success":
        cause = f"{failure['cause']}: {failure['message']}" if failure else f"its task is {state}"
        return Trial(arguments, error=cause)
    score = (result or {}).get("score")
    if not is_number(score):
        return Trial(arguments, error=f"its score is {score!r}, not a finite number")
    return Trial(arguments, result)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that succeeded, the best one first; of equal ones the earlier first."""
    return sorted((trial for trial in trials if not trial.error), key=lambda trial: -trial.score)


def best(rounds: Sequence[Sequence[Trial]]) -> Trial:
    """The winner: the best trial of the last round that any trial survived.

    Raises:
        TaskFailed: no trial succeeded; the message has the cause of each.
    """
    for trials in reversed(rounds):
        if ranking := ranked(trials):
            return ranking[0]
    causes = [f"trial {number}: {trial.error}" for number, trial in enumerate(rounds[0])]
    why = "; ".join(causes) or "none was started, see the tasks before"
    raise TaskFailed("trials_failed", f"no trial succeeded: {why}")


def table(rounds: Sequence[Sequence[Trial]]) -> str:
    """A Markdown table with the last outcome of every trial, the best first."""
    last = {trial.key: (number, trial) for number, trials in enumerate(rounds, 1) for trial in trials}
    numbers = {trial.key: number for number, trial in enumerate(rounds[0])} if rounds else {}
    order = sorted(
        last.values(), key=lambda item: (bool(item[1].error), -item[0], -item[1].result.get("score", 0.0))
    )
    names = _varied([trial for _, trial in order])
    lines = [
        f"| trial | {' | '.join([*names, ''])}round | score | outcome |",
        "|---" * (len(names) + 4) + "|",
    ]
    for number, trial in order:
        values = [f"{trial.arguments['step_params'].get(name, '')}" for name in names]
        score = "" if trial.error else f"{trial.score:.4f}"
        outcome = trial.error.replace("\n", " ").replace("|", "/") or "ok"
        lines.append(
            f"| {numbers[trial.key]} | {' | '.join([*values, ''])}{number} | {score} | {outcome[:200]} |"
        )
    return "\n".join(lines)


def _varied(trials: Sequence[Trial]) -> list[str]:
    """Parameters in which the trials differ, but for what halving changes."""
    params = [trial.arguments["step_params"] for trial in trials]
    names = {name: None for each in params for name in each if name != "stop_after"}
    return [name for name in names if len({repr(each.get(name)) for each in params}) > 1]


async def record(
    client: MlflowClient, experiment: str, parent: str, text: str, tags: Mapping[str, Any]
) -> None:
    """Put the table and tags onto the MLflow run `parent`, under which the trials are nested."""
    found = await client.get_experiment_id(experiment)
    if found is None:
        return  # no trial got as far as MLflow
    for run in await client.search_runs(found, f"tags.`{Tag.RUN_KEY}` = '{parent}'"):
        await client.log_text(run, text, "sweep.md")
        for name, value in tags.items():
            await client.set_tag(run.run_id, f"{TAG_PREFIX}sweep_{name}", str(value))
