"""The --params JSON: known keys only, each with a type and bounds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from trainyard_contract import NO_SPLIT, SPLIT_KINDS

from trainyard_trainer.errors import BadConfig

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Param:
    """One parameter: its default gives its type; numbers lie between `low` and `high`, both included.

    A string is one of `choices`, if there are any.
    """

    default: str | int | float  # or a bool, which is an int
    low: float = 0
    high: float = float("inf")
    is_hyperparameter: bool = True  # whether the trained model depends on it
    choices: tuple[str, ...] = ()


COMMON: Mapping[str, Param] = {
    "model": Param("digits"),
    "epochs": Param(12, low=1, high=10_000),
    "batch_size": Param(64, low=1, high=65_536),
    "learning_rate": Param(0.001, low=1e-9, high=10.0),
    "seed": Param(0, high=2**31 - 1),
    "schedule": Param("constant", choices=("constant", "linear", "cosine")),  # of the learning rate
    "warmup": Param(0.0, high=0.9),  # share of all steps in which the learning rate rises to its value
    "max_gradient_norm": Param(0.0, high=1e6),  # a longer gradient is shortened to it; 0 = none is
    "accumulate": Param(1, low=1, high=65_536),  # parts in which each batch is computed, to need less memory
    "precision": Param("float32", choices=PRECISIONS),  # of the forward pass in training
    "deterministic": Param(True, is_hyperparameter=False),  # whether the same inputs give the same weights
    # train: processes that read the inputs from their files; 0 = the device holds them all
    "workers": Param(0, high=64, is_hyperparameter=False),
    "epoch_seconds": Param(0.0, high=3600, is_hyperparameter=False),  # minimum duration of an epoch
    # validate, preprocess: by what rows are split; "" = as the model says
    "split": Param("", choices=("", *SPLIT_KINDS, NO_SPLIT), is_hyperparameter=False),
    "split_column": Param("", is_hyperparameter=False),  # of the time or group; "" = the model's own
    # validate: share of the rows of validation and test that may be equal to a row of training
    "max_repeated": Param(0.01, high=1.0, is_hyperparameter=False),
    "date": Param("", is_hyperparameter=False),  # YYYY-MM-DD; "" = today, UTC
    "stop_after": Param(0, high=10_000, is_hyperparameter=False),  # epochs; 0 = all; a later call resumes
    "features_uri": Param("", is_hyperparameter=False),  # train, evaluate, predict; "" = none
    "model_uri": Param("", is_hyperparameter=False),  # evaluate, predict; "" = this run key's latest
    "champion": Param("", is_hyperparameter=False),  # evaluate: registered model of the champion; "" = none
    "finished": Param(False, is_hyperparameter=False),  # clean: whether the run finished
    "older_than_days": Param(-1.0, low=-1, high=36_500, is_hyperparameter=False),  # clean; -1 = this run
    "dry_run": Param(False, is_hyperparameter=False),  # clean: only log what would be removed
    "model_version": Param("", is_hyperparameter=False),  # predict; "" = the end of the model's URI
}


def load(text: str) -> dict[str, Any]:
    """Parse the JSON text into an object. Raises BadConfig."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise BadConfig(f"--params is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise BadConfig('--params must be a JSON object, such as {"epochs": 12}')
    return given


def complete(given: Mapping[str, Any], known: Mapping[str, Param]) -> dict[str, Any]:
    """Check the given parameters, and add defaults for the others. Raises BadConfig naming the key."""
    for key in given:
        if key not in known:
            raise BadConfig(f"unknown parameter {key!r}; known: {', '.join(sorted(known))}")
    values: dict[str, Any] = {
        key: _checked(key, given.get(key, param.default), param) for key, param in known.items()
    }
    values["date"] = values["date"] or datetime.now(UTC).date().isoformat()
    try:
        date.fromisoformat(values["date"])
    except ValueError:
        raise BadConfig(f"parameter 'date' is {values['date']!r}; use YYYY-MM-DD") from None
    return values


def _checked(key: str, value: Any, param: Param) -> str | int | float:
    wanted = type(param.default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not wanted:
        name = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}[wanted]
        raise BadConfig(f"parameter {key!r} is {value!r}; use {name}")
    if isinstance(value, (int, float)):
        if not param.low <= value <= param.high:  # also for NaN
            raise BadConfig(f"parameter {key!r} is {value}; use {param.low} to {param.high}")
        return value
    if param.choices and value not in param.choices:
        raise BadConfig(f"parameter {key!r} is {value!r}; use {', '.join(filter(None, param.choices))}")
    return str(value)
