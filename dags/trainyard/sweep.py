"""Searching for hyperparameters: which settings to try, how long each is tried, and which one wins.

A search space is an object with one entry per parameter: a list of values (`{"batch_size": [32, 64]}`) or a
range (`{"learning_rate": {"low": 0.0001, "high": 0.1, "log": true}}`); a range of whole numbers gives whole
numbers. A trial is the dict of arguments with which its instance of the mapped training task differs.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException

from trainyard.naming import safe_key

if TYPE_CHECKING:
    from mlflow import MlflowClient

Settings = dict[str, Any]
STRATEGIES = ("grid", "random", "product")
# What the sweep itself decides about a trial.
RESERVED = frozenset({"date", "epochs", "features_uri", "model", "model_uri", "stop_after"})


class SpaceError(AirflowFailException):
    """A search space that cannot be, also at another try; the message names the parameter and the cure."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `log` draws each order of magnitude as often."""

    low: float
    high: float
    log: bool = False

    def draw(self, random: random.Random) -> int | float:
        """One value of the range."""
        if self.log:
            value = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = random.uniform(self.low, self.high)
        value = min(max(value, self.low), self.high)  # exp and log may leave it by rounding
        return round(value) if isinstance(self.low, int) and isinstance(self.high, int) else value


Space = Mapping[str, list[Any] | Range]


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


def parse_space(space: Mapping[str, Any]) -> Space:
    """Check a search space as people write it.

    Raises:
        SpaceError: naming the parameter.
    """
    if not space:
        raise SpaceError('space is empty; name a parameter, such as {"learning_rate": [0.001, 0.01]}')
    return {name: _parse_entry(name, entry) for name, entry in space.items()}


def _parse_entry(name: str, entry: Any) -> list[Any] | Range:
    if name in RESERVED:
        raise SpaceError(f"space: {name} is set by the sweep for all trials alike; remove it")
    if isinstance(entry, list):
        if not entry:
            raise SpaceError(f"space: {name} has no values; give it one, or remove it")
        return entry
    if not isinstance(entry, Mapping):
        raise SpaceError(
            f'space: {name} is {entry!r}; use a list of values or {{"low": ..., "high": ..., "log": true}}'
        )
    if unknown := entry.keys() - {"low", "high", "log"}:
        raise SpaceError(f"space: {name} has {', '.join(sorted(unknown))}; a range knows low, high and log")
    low, high, log = entry.get("low"), entry.get("high"), entry.get("log", False)
    if not (_is_number(low) and _is_number(high) and low < high):
        raise SpaceError(f"space: {name} goes from low={low!r} to high={high!r}; use two numbers, low < high")
    if not isinstance(log, bool):
        raise SpaceError(f"space: {name} has log={log!r}; use true or false")
    if log and low <= 0:
        raise SpaceError(f"space: {name} has log and low={low!r}; logarithms need low > 0")
    return Range(low, high, log)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def settings(strategy: str, space: Mapping[str, Any], trials: int, seed: int) -> list[Settings]:
    """The settings which a strategy tries; always the same for the same arguments.

    Raises:
        SpaceError: the space does not suit the strategy, or gives more settings than Airflow maps over.
    """
    parsed = parse_space(space)
    # Counted before anything is made: six lists of a hundred values would not fit into memory.
    _require_mappable(count(strategy, parsed, trials))
    if strategy == "grid":
        return grid(parsed)
    return sample(parsed, trials, seed) if strategy == "random" else product(parsed, trials, seed)


def count(strategy: str, space: Space, trials: int) -> int:
    """How many settings `strategy` gives."""
    listed = math.prod(len(entry) for entry in space.values() if isinstance(entry, list))
    has_ranges = any(isinstance(entry, Range) for entry in space.values())
    if strategy == "product":
        return listed * (trials if has_ranges else 1)
    return trials if strategy == "random" else listed


def grid(space: Space) -> list[Settings]:
    """Every combination of the listed values; the last parameter changes fastest, as in `expand`."""
    lists = []
    for name, entry in space.items():
        if isinstance(entry, Range):
            raise SpaceError(
                f"space: {name} is a range, of which a grid cannot try every value; list the values, or use "
                "the strategy random or product"
            )
        lists.append(entry)
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*lists)]


def sample(space: Space, trials: int, seed: int) -> list[Settings]:
    """`trials` random draws: of a list each value as often, of a range as it says."""
    generator = random.Random(seed)
    return [
        {
            name: entry.draw(generator) if isinstance(entry, Range) else generator.choice(entry)
            for name, entry in space.items()
        }
        for _ in range(trials)
    ]


def product(space: Space, trials: int, seed: int) -> list[Settings]:
    """Every combination of the listed values, crossed with `trials` draws of the ranges.

    All combinations get the same draws, so that lists are compared like with like.
    """
    lists = {name: entry for name, entry in space.items() if not isinstance(entry, Range)}
    ranges = {name: entry for name, entry in space.items() if isinstance(entry, Range)}
    draws = sample(ranges, trials, seed) if ranges else [{}]
    return [{**combination, **draw} for combination in grid(lists) for draw in draws]


def _require_mappable(number: int) -> None:
    limit = conf.getint("core", "max_map_length", fallback=1024)
    if number > limit:
        raise SpaceError(
            f"{number} trials are more than Airflow maps over ({limit}, core.max_map_length); shorten the "
            "lists in space, use the strategy random with fewer trials, or raise the limit"
        )


def rungs(trials: int, epochs: int, number: int, eta: int) -> list[Rung]:
    """At most `number` rounds of successive halving: each keeps 1/`eta` of the trials, `eta` times as long.

    The last one trains all `epochs`. With few epochs there are fewer rounds, since each must add an epoch.
    """
    budgets = sorted({math.ceil(epochs / eta**back) for back in range(number)})
    return [Rung(max(1, trials // eta**index), budget) for index, budget in enumerate(budgets)]


def trial_arguments(number: int, trial: Settings, *, parent: str, common: Settings) -> dict[str, Any]:
    """Arguments of the training task for trial `number`, an MLflow run of its own under the run `parent`."""
    key = safe_key(f"{parent}__trial-{number}")
    return {
        "run_key": key,
        "parent_run_key": parent,
        "output_uri": f"file:///checkpoints/{key}/model",
        "step_params": {**common, **trial},
    }


def until(arguments: Mapping[str, Any], rung: Rung) -> dict[str, Any]:
    """The arguments of the same trial, to train up to the end of `rung` from where it stopped."""
    epochs = arguments["step_params"]["epochs"]
    stop_after = rung.epochs if rung.epochs < epochs else 0  # 0: all epochs, and a model at the end
    return {**arguments, "step_params": {**arguments["step_params"], "stop_after": stop_after}}


def collect(ti: Any, task_id: str, arguments: Sequence[Mapping[str, Any]] | None) -> list[Trial]:
    """What became of the instances of the mapped training task `task_id`; [] if it was never mapped.

    To be called on a worker: a mapped task's outputs, read all at once, come without those of failed
    instances, and so without saying whose they are.
    """
    if not arguments:
        return []
    states = ti.get_task_states(ti.dag_id, task_ids=[task_id], run_ids=[ti.run_id]).get(ti.run_id, {})
    indexes = list(range(len(arguments)))
    results = ti.xcom_pull(task_ids=task_id, map_indexes=indexes)
    failures = ti.xcom_pull(task_ids=task_id, map_indexes=indexes, key="failure")
    # The state decides, for a task that was cleared may have left a result of its first time.
    return [
        judge(trial, states.get(f"{task_id}_{index}", "not started"), results[index], failures[index])
        for index, trial in enumerate(arguments)
    ]


def judge(arguments: Mapping[str, Any], state: str, result: Any, failure: Any) -> Trial:
    """The trial's outcome; a score which is no finite number is a failure: it would win or lose by chance."""
    if state != "success":
        cause = f"{failure['cause']}: {failure['message']}" if failure else f"its task is {state}"
        return Trial(arguments, error=cause)
    score = (result or {}).get("score")
    if not _is_number(score):
        return Trial(arguments, error=f"its score is {score!r}, not a finite number")
    return Trial(arguments, result)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that succeeded, the best one first; of equal ones the earlier first."""
    return sorted((trial for trial in trials if not trial.error), key=lambda trial: -trial.score)


def best(rounds: Sequence[Sequence[Trial]]) -> Trial:
    """The winner: the best trial of the last round that any trial survived.

    Raises:
        AirflowFailException: no trial succeeded; the message has the cause of each.
    """
    for trials in reversed(rounds):
        if ranking := ranked(trials):
            return ranking[0]
    causes = [f"trial {number}: {trial.error}" for number, trial in enumerate(rounds[0])]
    raise AirflowFailException(
        "no trial succeeded: " + ("; ".join(causes) or "none was started, see the tasks before")
    )


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


def record(client: MlflowClient, experiment: str, parent: str, text: str, tags: Mapping[str, Any]) -> None:
    """Put the table and tags onto the MLflow run `parent`, under which the trials are nested."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return  # no trial got as far as MLflow
    filter_string = f"tags.`trainyard.run_key` = '{parent}'"
    for run in client.search_runs([found.experiment_id], filter_string=filter_string):
        client.log_text(run.info.run_id, text, "sweep.md")
        for name, value in tags.items():
            client.set_tag(run.info.run_id, f"trainyard.sweep_{name}", str(value))
