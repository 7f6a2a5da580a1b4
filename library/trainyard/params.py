"""DAG parameters that several DAGs have.

Every number needs both bounds, those of the trainer: Airflow 3.3.2's triggerer dies of integers over 64 bits,
which JSON happily carries, and would die again on each restart.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param
from trainyard_contract import SPLIT_KINDS

from trainyard.platform import Platform

CPU = "cpu"
# A hyperparameter: any value that is no list or object.
_VALUE = {"type": ["boolean", "number", "string"], "minimum": -1e15, "maximum": 1e15}


def epochs_param(description: str) -> Param:
    """How long to train."""
    return Param(12, type="integer", minimum=1, maximum=10_000, description=description)


def space_param(default: dict[str, Any], description: str, *, ranges: bool = True) -> Param:
    """Which settings to try, as in `tuning.search_space`; without `ranges` only lists of values."""
    lists: dict[str, Any] = {"type": "array", "minItems": 1, "items": _VALUE}
    either = {"type": ["array", "object"], "items": _VALUE, "additionalProperties": _VALUE}
    return Param(
        default,
        type="object",
        minProperties=1,
        additionalProperties=either if ranges else lists,
        description=description,
    )


def seed_param(description: str) -> Param:
    """What makes a run repeatable."""
    return Param(0, type="integer", minimum=0, maximum=2**31 - 1, description=description)


def nodes_param(default: int = 1) -> Param:
    """On how many nodes to train at once."""
    return Param(
        default,
        type="integer",
        minimum=1,
        maximum=64,
        description="GPU nodes that share each batch; they start and end together",
    )


def pool_param(platform: Platform, default: str | None = None) -> Param:
    """Where to train, by default in the platform's default pool; see `in_chosen_pool`.

    A platform without GPU pools trains on CPUs, the only choice then.
    """
    if not platform.pools:
        return Param(CPU, type="string", enum=[CPU], description="the platform has no GPU pool")
    default = platform.pool(default or str(platform.default_pool)).name
    return Param(default, type="string", enum=platform.pool_names, description="GPU pool to train in")


def in_chosen_pool(platform: Platform, default: str | None = None) -> dict[str, str]:
    """Arguments of a task that trains in the GPU pool which the run's `pool_param` names.

    Airflow's own pool cannot follow a parameter: that of `default` counts the task wherever its pod goes.
    """
    if not platform.pools:
        return {}
    pool = platform.pool(default or str(platform.default_pool))
    return {"gpu_pool": "{{ params.pool }}", "pool": pool.airflow_pool}


def split_param(default: str, description: str) -> Param:
    """By what rows are split; an empty default leaves it to the trainer's model."""
    kinds = [*SPLIT_KINDS, *([] if default else [""])]
    return Param(default, type="string", enum=kinds, description=description)


def model_name_param(model: str) -> Param:
    """Under which name a run registers its model."""
    return Param(
        model,
        type="string",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="name in the registry; another name has a champion of its own",
    )


def data_date_param() -> Param:
    """The day behind `assets.DATE`."""
    return Param(
        None,
        type=["null", "string"],
        format="date",
        description="work on the data of this day (YYYY-MM-DD) instead of the run's own",
    )
