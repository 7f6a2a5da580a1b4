"""Search spaces: which settings of hyperparameters to try.

A search space is an object with one entry per parameter: a list of values (`{"batch_size": [32, 64]}`) or a
range (`{"learning_rate": {"low": 0.0001, "high": 0.1, "log": true}}`); a range of whole numbers gives whole
numbers.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException

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
    if not (is_number(low) and is_number(high) and low < high):
        raise SpaceError(f"space: {name} goes from low={low!r} to high={high!r}; use two numbers, low < high")
    if not isinstance(log, bool):
        raise SpaceError(f"space: {name} has log={log!r}; use true or false")
    if log and low <= 0:
        raise SpaceError(f"space: {name} has log and low={low!r}; logarithms need low > 0")
    return Range(low, high, log)


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


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number that can be compared."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
