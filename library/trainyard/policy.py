"""What the library adds to Airflow itself, in every process: the entry point `airflow.policy`.

Airflow loads it while its settings initialise, before `airflow_local_settings.py`. A plugin would reach the
components, whose listeners load plugins before they read DAG files, but not the command line: `airflow dags
list` and `dags test` load none. As Airflow is only half imported here, an addition must not import more of it
than it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from airflow.policies import hookimpl

from trainyard.airflow_compat import (
    CALLBACK_EXTENSION,
    CANCEL_EXTENSION,
    END_EXTENSION,
    LAST_LINES_EXTENSION,
    POLL_EXTENSION,
    ROLE_EXTENSION,
    ROOM_EXTENSION,
    TRIGGER_EXTENSION,
    log_unsupported,
)

ADDITIONS: Mapping[str, str] = {
    "DAGs of model files (models/*.yaml)": "trainyard.factory.importer:install",
    TRIGGER_EXTENSION: "trainyard.airflow_compat:extend_triggers",
    POLL_EXTENSION: "trainyard.airflow_compat:shorten_triggerer_polls",
    ROOM_EXTENSION: "trainyard.alerts.room:leave_room_and_watch_it",
    CANCEL_EXTENSION: "trainyard.airflow_compat:cancel_triggers_once",
    LAST_LINES_EXTENSION: "trainyard.airflow_compat:keep_last_lines",
    END_EXTENSION: "trainyard.airflow_compat:end_runs_as_told",
    CALLBACK_EXTENSION: "trainyard.airflow_compat:repair_callbacks_of_versions",
    ROLE_EXTENSION: "trainyard.access:make_roles_of_teams",
}
"""What a process gets -> the function that adds it. None of them needs another."""


def add(additions: Mapping[str, str]) -> None:
    """Call each function. One that fails is reported, and the process goes on without what it adds."""
    for what, function in additions.items():
        try:
            resolve_name(function)()
        except Exception:
            log_unsupported(what, function)


@hookimpl
def pod_mutation_hook(pod: Any) -> None:
    """Airflow's cluster policy for pods: worker pods mount the DAGs that their run started with.

    Pods of Airflow's own Kubernetes operators get what they need here.
    """
    from trainyard.bundles.pod import mount_dags_of_run
    from trainyard.stock_operators.pods import complete

    mount_dags_of_run(pod)
    complete(pod)


@hookimpl
def dag_policy(dag: Any) -> None:
    """Airflow's cluster policy for DAGs: those of a team with a role are for its users."""
    from trainyard.access import restrict

    restrict(dag)


@hookimpl
def task_policy(task: Any) -> None:
    """Airflow's cluster policy for tasks: those of its Kubernetes operators may launch pods."""
    from trainyard.stock_operators.tasks import prepare

    prepare(task)


add(ADDITIONS)
