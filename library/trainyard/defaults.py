"""What every DAG of this platform has in common."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from trainyard.alerts.callbacks import on_failure

OWNER = "ml-platform"


def default_args(**changes: Any) -> dict[str, Any]:
    """`default_args` of a DAG: two retries with exponential backoff. `changes` replace keys.

    Tasks have no callbacks: most start and end in the triggerer. A failed run is reported once, by the DAG's
    own callback (see `dag_args`).
    """
    return {
        "owner": OWNER,
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=10),
        **changes,
    }


def dag_args(**changes: Any) -> dict[str, Any]:
    """Arguments of a DAG, `default_args` among them: `DAG("name", **dag_args(schedule="@daily"))`.

    There is no start date: with one, a DAG would run for the last time of its schedule as soon as it is
    unpaused. Without one, it waits for the next time.
    """
    return {
        "catchup": False,
        # Two runs at once would both be compared with the same champion.
        "max_active_runs": 1,
        "dagrun_timeout": timedelta(hours=12),
        "on_failure_callback": on_failure,
        "default_args": default_args(),
        **changes,
    }
