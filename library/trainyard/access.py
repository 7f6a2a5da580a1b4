"""Who sees a DAG in Airflow: users of its team's role (`teams.NAME.airflowRole`), and whom its file names.

It is the FAB auth manager that reads it. With another one it is of no effect.
"""

from __future__ import annotations

from typing import Any

from trainyard.airflow_compat import make_missing_roles
from trainyard.platform import Platform, PlatformError, load_platform

# What a team may do with its DAGs. What it may do with their runs and tasks the role itself says, which the
# chart makes: charts/trainyard/files/set_up_airflow.py.
RIGHTS = ("can_read", "can_edit", "can_delete")


def restrict(dag: Any) -> None:
    """Give a DAG to the role of its team, and to no other team's, whatever its file says of them.

    Without such roles nothing is changed. With them, a DAG that has none gets no permissions rather than no
    word on them: that is how Airflow takes away those of a team that it was of before.
    """
    platform = _platform()
    roles = _roles(platform)
    if platform is None or not roles:
        return
    said = dag.access_control or {}
    access = {role: rights for role, rights in said.items() if role not in roles}
    team = platform.team_of(dag.dag_id)
    if team and team.airflow_role:
        access[team.airflow_role] = {"DAGs": set(RIGHTS)}
    dag.access_control = access


def make_roles_of_teams() -> None:
    """Let the dag-processor make the role of a team, as yet without pages, where a DAG is there before it."""
    make_missing_roles(lambda: _roles(_platform()))


def _platform() -> Platform | None:
    try:
        return load_platform()
    except PlatformError:  # the library without the chart
        return None


def _roles(platform: Platform | None) -> set[str]:
    teams = platform.teams.values() if platform else ()
    return {team.airflow_role for team in teams if team.airflow_role}
