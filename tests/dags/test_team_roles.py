"""The role of a team in Airflow: whom the cluster policy gives a DAG, and what people then see of others'."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow_command import run_script
from trainyard.access import RIGHTS, restrict

HERE = Path(__file__).parent / "roles_in_airflow"
ROOT = Path(__file__).parents[2]
PLATFORM = json.loads((ROOT / "tests/dags/platform.json").read_text())
FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
TEAMS = {
    name: {"namespace": f"ml-{name}", "dags": [f"{name}_*"], "airflowRole": name}
    for name in ("vision", "text")
}
OWN = {"DAGs": set(RIGHTS)}
SCRIPT = ROOT / "charts/trainyard/files/set_up_airflow.py"


@pytest.fixture
def teams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Teams in the platform file: those of TEAMS, and one without a role."""
    told = {**TEAMS, "sound": {"namespace": "ml-sound", "dags": ["sound_*"]}}
    (tmp_path / "platform.json").write_text(json.dumps({**PLATFORM, "teams": told}))
    monkeypatch.setenv("TRAINYARD_PLATFORM", str(tmp_path / "platform.json"))
    return told


def access(dag_id: str, **said: Any) -> Any:
    dag = DAG(dag_id, schedule=None, **said)
    restrict(dag)
    return dag.access_control


@pytest.mark.parametrize(
    ("dag_id", "said", "expected"),
    [
        ("vision_train", None, {"vision": OWN}),
        ("maintenance-vision", None, {"vision": OWN}),
        ("vision_train", {"vision": {"can_read"}, "text": {"can_read"}}, {"vision": OWN}),
        ("vision_train", {"auditors": {"can_read"}}, {"auditors": {"DAGs": {"can_read"}}, "vision": OWN}),
        ("sound_train", None, {}),
        ("alone", None, {}),
        ("alone", {"text": {"can_read"}, "auditors": {"can_read"}}, {"auditors": {"DAGs": {"can_read"}}}),
    ],
)
def test_a_dag_is_for_the_role_of_its_team(teams: Any, dag_id: str, said: Any, expected: Any) -> None:
    assert access(dag_id, access_control=said) == expected


@pytest.mark.parametrize("file", ["platform.json", "missing.json"])
def test_without_roles_a_dag_says_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    team = {"namespace": "ml-vision", "dags": ["vision_*"]}
    (tmp_path / "platform.json").write_text(json.dumps({**PLATFORM, "teams": {"vision": team}}))
    monkeypatch.setenv("TRAINYARD_PLATFORM", str(tmp_path / file))
    assert access("vision_train") is None
    assert access("vision_train", access_control={"x": {"can_read"}}) == {"x": {"DAGs": {"can_read"}}}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What people get of a real Airflow with its FAB auth manager; see roles_in_airflow/run.py."""
    home = tmp_path_factory.mktemp("airflow")
    (home / "platform.json").write_text(json.dumps({**PLATFORM, "teams": TEAMS}))
    return run_script(
        home,
        HERE / "run.py",
        str(SCRIPT),
        AIRFLOW__API__SECRET_KEY="k" * 64,
        AIRFLOW__API_AUTH__JWT_SECRET="k" * 64,
        AIRFLOW__CORE__AUTH_MANAGER=FAB,
        AIRFLOW__FAB__CACHE_TTL="0",
        TRAINYARD_PLATFORM=str(home / "platform.json"),
    )


def on(dag: str) -> list[str]:
    return [f"can {what} on DAG:{dag}" for what in ("delete", "edit", "read")]


RIGHTS_ON_DAGS = {
    "auditors": ["can read on DAG:vision_train"],
    "text": on("text_train"),
    "vision": on("vision_train"),
}


def test_a_dag_that_is_there_before_its_role_has_no_import_error(found: dict[str, Any]) -> None:
    before = found["before"]
    # What Airflow does with a role that is not there and no team's.
    assert before["errors"].keys() == {"ghost.py"}
    assert "includes a role named 'ghost', but that role does not exist" in before["errors"]["ghost.py"]
    assert before["stale"] == ["ghost"]
    assert before["rights"] == RIGHTS_ON_DAGS


def test_the_job_gives_a_role_its_pages_and_leaves_it_its_dags(found: dict[str, Any]) -> None:
    vision, text = found["roles"]["vision"], found["roles"]["text"]
    assert set(on("vision_train")) < set(vision) and set(on("text_train")) < set(text)
    assert {"can read on Website", "menu access on DAGs"} < set(vision)
    assert {each for each in vision if each.endswith(" on DAGs")} == {"menu access on DAGs"}
    assert set(vision) - set(on("vision_train")) == set(text) - set(on("text_train"))
    assert found["after"]["rights"] == RIGHTS_ON_DAGS


@pytest.mark.parametrize(("person", "dag"), [("ada", "vision_train"), ("bob", "text_train")])
def test_lists_have_the_team_s_dags_alone(found: dict[str, Any], person: str, dag: str) -> None:
    lists = found["lists"][person]
    names = ("dags", "cards", "runs", "batch", "tasks", "task batch", "versions", "stats")
    assert {name: lists[name] for name in names} == {name: [dag] for name in names}
    assert found["lists"]["eve"]["runs"] == ["alone", "text_train", "vision_train"]
    assert lists["menus"] == ["Dags", "Deadlines", "Docs"]
    refused = ("assets", "jobs", "variables", "connections", "eventLogs")
    assert {name: lists[name] for name in refused} == dict.fromkeys(refused, 403)
    assert (lists["pools"], lists["importErrors"]) == (200, 200)


@pytest.mark.parametrize(("person", "own"), [("ada", "vision_train"), ("bob", "text_train")])
def test_people_use_their_team_s_dags_alone(found: dict[str, Any], person: str, own: str) -> None:
    answers = dict(found["answers"][person])
    # As the role User: what the run has not got is not found (404), no DAG is refused.
    assert answers.pop(own) == found["answers"]["eve"][own]
    for dag, answer in answers.items():
        assert answer.pop("bulk") == [403], dag
        assert set(answer.values()) == {403}, dag


def test_a_role_that_no_team_has_any_more_loses_its_dags(found: dict[str, Any]) -> None:
    # So do rights on a DAG which somebody gave on Airflow's pages.
    taken = {role: rights for role, rights in RIGHTS_ON_DAGS.items() if role != "vision"}
    assert found["taken"]["rights"] == taken
    assert set(on("text_train")) < set(found["kept"]["text"])
    # Without any role of a team, nothing is said of DAGs, and Airflow leaves their rights as they are.
    assert set(on("text_train")) < set(found["last"]["rights"]["text"])


def test_a_role_may_do_what_airflow_s_users_may_but_for_dags_of_others() -> None:
    """Whoever upgrades Airflow decides of each new right whether it shows them."""
    from airflow.providers.fab.auth_manager.security_manager.override import FabAirflowSecurityManagerOverride

    told = runpy.run_path(str(SCRIPT))["RIGHTS"]
    rights = {(action, resource) for resource, actions in told.items() for action in actions}
    roles = FabAirflowSecurityManagerOverride.ROLE_CONFIGS
    (users,) = (set(role["perms"]) for role in roles if role["role"] == "User")
    assert rights < users
    assert users - rights == {
        *((action, "DAGs") for action in ("can_read", "can_edit", "can_delete")),
        # Assets name the DAGs that make and read them, and an event of an asset starts them.
        *((action, "Assets") for action in ("can_read", "can_create", "menu_access")),
        ("can_read", "Asset Aliases"),
        # They do not ask whose DAG it is.
        *((action, name) for action in ("can_read", "menu_access") for name in ("Jobs", "Cluster Activity")),
        # Airflow 3 has nothing behind them.
        *((action, "SLA Misses") for action in ("can_read", "menu_access")),
        ("can_read", "Backfills"),
        ("menu_access", "Browse"),
    }
