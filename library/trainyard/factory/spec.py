"""A model file (`dags/models/NAME.yaml`), checked: what to train, on which data, what makes it good enough.

`model.schema.json` beside this file lists every key with its type, bounds, default and description.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from trainyard.factory import yaml_document
from trainyard.factory.yaml_document import Document, DocumentError, Problem, dotted, kind_of
from trainyard.platform import Platform

SCHEMA_FILE = Path(__file__).with_name("model.schema.json")
DURATION_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
KINDS = {
    "string": "text",
    "object": "keys and values",
    "array": "a list",
    "null": "null",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
}
# Words for a pool, whatever the platform calls it.
DEFAULT_POOL, DEFAULT_SPOT_POOL = "default", "default-spot"
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True)
class TrainSettings:
    """Where and how to train. `pool` is the platform's name of a GPU pool; None means a CPU pod."""

    pool: str | None
    gpus: int
    nodes: int
    fallback: str | None
    fallback_after: timedelta
    escalate_to: str | None
    resources: Mapping[str, Mapping[str, str]]
    scratch_size: str | None
    shared_memory_size: str | None
    deadline: timedelta
    params: Mapping[str, str | int | float]


@dataclass(frozen=True)
class GateSettings:
    """What makes a model good enough to become champion."""

    metric: str
    minimum: float
    min_improvement: float


@dataclass(frozen=True)
class ApprovalSettings:
    """A person has to approve a new champion; empty `approvers` (ids of users) means anybody who may."""

    timeout: timedelta
    approvers: tuple[str, ...]


@dataclass(frozen=True)
class DeploySettings:
    """The new champion is served."""

    replicas: int


@dataclass(frozen=True)
class ModelSpec:
    """One model file. `model` is the trainer's, `registered_as` the name under which a champion is kept.

    `schedule` is a cron expression, `asset` the URI of an asset; at most one is given. `split` is empty where
    the trainer's model says how to split.
    """

    name: str
    model: str
    registered_as: str
    description: str
    owner: str
    tags: tuple[str, ...]
    schedule: str | None
    asset: str | None
    data: str
    features: bool
    split: Mapping[str, str | float]
    image: str | None
    train: TrainSettings
    gate: GateSettings
    approval: ApprovalSettings | None
    deploy: DeploySettings | None
    notify: str
    max_active_runs: int
    retries: int
    timeout: timedelta

    @property
    def dag_id(self) -> str:
        """The DAG that the file makes."""
        return dag_id(self.name)


def dag_id(name: str) -> str:
    """The DAG which the model file NAME.yaml makes."""
    return f"{name}_training"


def parse_spec(text: str, name: str, platform: Platform) -> ModelSpec:
    """Check the text of the model file `name`.yaml, for a platform with certain GPU pools.

    Raises:
        DocumentError: something is wrong; it names every key, its line and the cure.
    """
    if not NAME.fullmatch(name):
        message = f"a model file is called NAME.yaml, with NAME of a-z, 0-9, _ and -, not {name!r}; rename it"
        raise DocumentError([Problem(1, 1, message)])
    document = yaml_document.parse(text)
    # jsonschema tells of each missing key, without saying which: every time, all of them are found.
    if problems := [document.problem(*found) for found in dict.fromkeys(_schema_problems(document))]:
        raise DocumentError(problems)
    spec = _spec(name, _with_defaults(schema(), document.data))
    if problems := [document.problem(*found) for found in _reference_problems(spec, platform)]:
        raise DocumentError(problems)
    return replace(spec, train=_with_pools(spec.train, platform))


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of model files."""
    return json.loads(SCHEMA_FILE.read_text())


def param_schema(name: str) -> dict[str, Any]:
    """Type, bounds and description of a key of `train.params`."""
    return schema()["properties"]["train"]["properties"]["params"]["properties"][name]


# A key's path, and what is wrong with its value and the cure.
_Found = tuple[tuple[str | int, ...], str]


def _schema_problems(document: Document) -> Iterator[_Found]:
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema()).iter_errors(document.data):
        path = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            known = error.schema["properties"]
            for key in error.instance:
                if key not in known:
                    yield (*path, key), _unknown(key, known)
        elif error.validator == "required":
            for key in error.validator_value:
                if key not in error.instance:
                    about = error.schema["properties"][key]["description"]
                    yield path, f"{key} is missing; add {dotted((*path, key))}, {about}"
        else:
            yield path, f"{_mismatch(error)}; it is meant as: {error.schema['description']}"


def _unknown(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    cure = f"did you mean {close[0]!r}?" if close else "remove it."
    return f"unknown key; {cure} Known: {', '.join(known)}"


def _mismatch(error: Any) -> str:
    wanted, value = error.validator_value, error.instance
    if error.validator == "type":
        types = [wanted] if isinstance(wanted, str) else wanted
        return f"expected {' or '.join(KINDS[kind] for kind in types)}, got {kind_of(value)}"
    if error.validator == "enum":
        choices = ", ".join("null" if choice is None else str(choice) for choice in wanted)
        return f"{value!r} is none of {choices}"
    if error.validator in ("minimum", "maximum", "exclusiveMinimum"):
        beyond = {"minimum": "less than", "maximum": "more than", "exclusiveMinimum": "not more than"}
        return f"{value} is {beyond[error.validator]} {wanted}"
    if error.validator in ("minLength", "maxLength", "maxItems"):
        return f"{kind_of(value)[:60]} is too {'short' if error.validator == 'minLength' else 'long'}"
    return f"{kind_of(value)[:200]} does not fit"


def _with_defaults(part: Mapping[str, Any], value: Any) -> Any:
    """`value` with the schema's defaults for the keys that it lacks."""
    if not isinstance(value, Mapping):
        return value
    filled = {}
    for key, sub in part["properties"].items():
        if key in value or "default" in sub:
            filled[key] = _with_defaults(sub, value.get(key, sub.get("default")))
    return filled


def _spec(name: str, data: Mapping[str, Any]) -> ModelSpec:
    train, schedule = data["train"], data["schedule"]
    return ModelSpec(
        name=name,
        model=data.get("model", name),
        registered_as=data.get("registered_as", name),
        description=data["description"],
        owner=data["owner"],
        tags=tuple(data["tags"]),
        schedule=schedule if isinstance(schedule, str) else None,
        asset=schedule["asset"] if isinstance(schedule, Mapping) else None,
        data=data["data"],
        features=data["features"],
        split=data.get("split", {}),
        image=data["image"],
        train=TrainSettings(
            pool=_text(train["pool"]),
            gpus=train["gpus"],
            nodes=train["nodes"],
            fallback=train["fallback"],
            fallback_after=duration(train["fallback_after"]),
            escalate_to=_text(train["escalate_to"]),
            resources={
                kind: {resource: str(quantity) for resource, quantity in quantities.items()}
                for kind, quantities in train["resources"].items()
            },
            scratch_size=train["scratch_size"],
            shared_memory_size=train["shared_memory_size"],
            deadline=duration(train["deadline"]),
            params=train["params"],
        ),
        gate=GateSettings(**data["gate"]),
        approval=_approval(_option("approval", data)),
        deploy=_deploy(_option("deploy", data)),
        notify=data["notify"],
        max_active_runs=data["quota"]["max_active_runs"],
        retries=data["retries"],
        timeout=duration(data["timeout"]),
    )


def _text(value: Any) -> str | None:
    """The name of a pool, which YAML takes for a number when it looks like one."""
    return None if value is None else str(value)


def _option(key: str, data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings of a key that may be false, true (the defaults) or its settings."""
    value = data[key]
    if value is False:
        return None
    return _with_defaults(schema()["properties"][key], {}) if value is True else value


def _approval(settings: Mapping[str, Any] | None) -> ApprovalSettings | None:
    if settings is None:
        return None
    return ApprovalSettings(duration(settings["timeout"]), tuple(map(str, settings["approvers"])))


def _deploy(settings: Mapping[str, Any] | None) -> DeploySettings | None:
    return None if settings is None else DeploySettings(settings["replicas"])


def duration(text: str) -> timedelta:
    """`30m`, `2h` or `1d` as a timedelta."""
    return timedelta(**{DURATION_UNITS[text[-1]]: int(text[:-1])})


def _pool_name(named: str | None, platform: Platform) -> str | None:
    """The platform's name of the pool that a model file names; None for CPUs.

    A pool that is called like one of the words is meant itself.
    """
    words = {DEFAULT_POOL: platform.default_pool, DEFAULT_SPOT_POOL: platform.default_spot_pool}
    return words[named] if named in words and named not in platform.pool_names else named


def _with_pools(train: TrainSettings, platform: Platform) -> TrainSettings:
    """The settings with the platform's names of pools; without any, with what a CPU needs."""
    pool, escalate_to = _pool_name(train.pool, platform), _pool_name(train.escalate_to, platform)
    if pool is None:
        return replace(train, pool=None, gpus=1, nodes=1, fallback=None, escalate_to=None)
    return replace(train, pool=pool, escalate_to=escalate_to)


def _reference_problems(spec: ModelSpec, platform: Platform) -> Iterator[_Found]:
    train = spec.train
    for key in ("pool", "escalate_to"):
        pool = _pool_name(getattr(train, key), platform)
        if pool is not None and pool not in platform.pool_names:
            known = ", ".join(platform.pool_names) or "none"
            yield ("train", key), f"no GPU pool {pool!r}; choose one of: {known}, or add it to `gpuPools`"
        elif pool is not None and train.gpus > platform.pool(pool).gpus_per_node:
            most = platform.pool(pool).gpus_per_node
            yield ("train", "gpus"), f"{train.gpus} GPUs, but a node of pool {pool} has {most}; ask for fewer"
        elif pool is not None and train.nodes * train.gpus > (most := platform.pool(pool).most_gpus):
            asked = f"{train.nodes} nodes with {train.gpus} GPUs each"
            yield ("train", "nodes"), f"{asked}, but pool {pool} has {most} GPUs at most; use fewer"
    if train.nodes > 1 and train.fallback:
        yield ("train", "fallback"), "a CPU cannot replace several nodes; remove it, or use one node"
    for key in ("fallback", "escalate_to"):
        if getattr(train, key) is not None and train.pool is None:
            yield ("train", key), "is for training on GPUs, but train.pool is null; name a pool or remove it"
    if train.deadline > spec.timeout:
        yield ("train", "deadline"), "is longer than timeout, which ends the whole run; raise timeout"
    if spec.approval and spec.approval.timeout > spec.timeout:
        yield ("approval", "timeout"), "is longer than timeout, which ends the whole run; raise timeout"
    if spec.schedule is not None and (wrong := _cron_problem(spec.schedule)):
        yield ("schedule",), wrong


def _cron_problem(schedule: str) -> str | None:
    from airflow.utils.dates import cron_presets
    from croniter import croniter  # type: ignore[import-untyped]

    if schedule in cron_presets:
        return None
    form = 'five fields (minute, hour, day, month, weekday) such as "0 2 * * 1"'
    presets = ", ".join(cron_presets)
    if len(schedule.split()) != 5:
        return f"{schedule!r} is no cron expression; write {form}, or one of {presets}"
    try:
        croniter(schedule).get_next()
    except (ValueError, KeyError) as error:  # croniter's own errors are ValueErrors
        return f"{schedule!r} is no cron expression ({error}); write {form}, or one of {presets}"
    return None
