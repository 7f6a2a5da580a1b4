"""Serves Airflow's API with the FAB auth manager, and lets people of two teams and of none ask for DAGs.

`python run.py SCRIPT` runs the chart's script against it as the Job does, on a SQLite database of its own,
and writes what people got to found.json.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from dag_store import store_dags

PASSWORD = "secret"
ROLES = {"ada": "vision", "bob": "text", "eve": "User"}
DAGS = ("vision_train", "text_train", "alone")
DAYS = {"from_date": "2026-01-01T00:00:00Z", "to_date": "2026-01-02T00:00:00Z"}


def main(script: str) -> None:
    from airflow.utils.db import initdb

    initdb()
    found: dict[str, Any] = {}
    url = serve()
    add_people("admin", "Admin")
    add_people("kim", "auditors")
    found["before"] = sync()
    for _ in range(2):
        run_job(script, url)
    found["roles"] = roles()
    for name, role in ROLES.items():
        add_people(name, role)
    found["after"] = sync()
    found["lists"] = {name: lists(Person(url, name)) for name in ROLES}
    found["answers"] = {name: answers(Person(url, name)) for name in ROLES}
    give_by_hand("Viewer", "alone")
    without_role("vision")
    found["taken"] = sync()
    run_job(script, url)
    found["kept"] = roles()
    without_role("text")
    found["last"] = sync()
    Path(os.environ["AIRFLOW_HOME"], "found.json").write_text(json.dumps(found, default=sorted))


def serve() -> str:
    """Start the api-server in a thread; its address."""
    import uvicorn
    from airflow.api_fastapi.app import create_app

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(), log_level="warning"))
    threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
    until = time.monotonic() + 120
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.1)
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def add_people(name: str, role: str) -> None:
    manager = security_manager()
    with flask_app().app_context():
        assert manager.add_user(name, name, name, f"{name}@x.org", manager.add_role(role), password=PASSWORD)


def flask_app() -> Any:
    from airflow.api_fastapi.app import get_auth_manager

    return get_auth_manager().flask_app  # type: ignore[attr-defined]


def security_manager() -> Any:
    from airflow.api_fastapi.app import get_auth_manager

    with flask_app().app_context():
        return get_auth_manager().security_manager  # type: ignore[attr-defined]


def run_job(script: str, url: str) -> None:
    names = json.dumps(["vision", "text"])
    os.environ.update(AIRFLOW_URL=url, ROLES=names, ADMIN_USERNAME="admin", ADMIN_PASSWORD=PASSWORD)
    runpy.run_path(script, run_name="__main__")


def roles() -> dict[str, list[str]]:
    """What each role may do."""
    with flask_app().app_context():
        found = security_manager().get_all_roles()
        return {role.name: sorted(map(str, role.permissions)) for role in found}


def sync() -> dict[str, Any]:
    """Store the DAGs as the dag-processor does; which have import errors, and what roles may do with DAGs."""
    from airflow.models.dag import DagModel
    from airflow.models.errors import ParseImportError
    from airflow.utils.session import create_session
    from sqlalchemy import select

    store_dags()
    with create_session() as session:
        errors = {each.filename: each.stacktrace for each in session.scalars(select(ParseImportError))}
        stale = list(session.scalars(select(DagModel.dag_id).where(DagModel.is_stale)))
    of_dags = {
        name: told
        for name, rights in roles().items()
        if (told := [right for right in rights if " on DAG:" in right or " on DAG Run:" in right])
    }
    return {"errors": errors, "stale": stale, "rights": of_dags}


def give_by_hand(role: str, dag: str) -> None:
    """As the page of roles does."""
    manager = security_manager()
    with flask_app().app_context():
        right = manager.get_permission("can_read", f"DAG:{dag}")
        manager.add_permission_to_role(manager.find_role(role), right)


def without_role(team: str) -> None:
    file = Path(os.environ["TRAINYARD_PLATFORM"])
    platform = json.loads(file.read_text())
    del platform["teams"][team]["airflowRole"]
    file.write_text(json.dumps(platform))


class Person:
    """Somebody who has logged in."""

    def __init__(self, url: str, name: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        login = {"username": name, "password": PASSWORD}
        token = self._http.post("/auth/token", json=login).json()["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def ask(self, method: str, path: str, body: Any = None) -> int:
        return self._http.request(method, path, json=body).status_code

    def get(self, path: str, method: str = "GET", body: Any = None) -> Any:
        response = self._http.request(method, path, json=body)
        return response.json() if response.is_success else response.status_code


def lists(person: Person) -> dict[str, Any]:
    """The ids of DAGs that the lists of the pages have."""
    everywhere = "/api/v2/dags/~/dagRuns"
    for dag in DAGS:
        person.ask("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None})
    asked: dict[str, tuple[Any, ...]] = {
        "dags": ("dags", "/api/v2/dags"),
        "cards": ("dags", "/ui/dags"),
        "runs": ("dag_runs", everywhere),
        "batch": ("dag_runs", f"{everywhere}/list", "POST", {}),
        "tasks": ("task_instances", f"{everywhere}/~/taskInstances"),
        "task batch": ("task_instances", f"{everywhere}/~/taskInstances/list", "POST", {}),
        "versions": ("dag_versions", "/api/v2/dags/~/dagVersions"),
    }
    found: dict[str, Any] = {}
    for name, (key, *request) in asked.items():
        answer = person.get(*request)
        found[name] = sorted({each["dag_id"] for each in answer[key]}) if isinstance(answer, dict) else answer
    stats = person.get("/api/v2/dagStats")
    found["stats"] = sorted(each["dag_id"] for each in stats["dags"]) if isinstance(stats, dict) else stats
    menus = person.get("/ui/auth/menus")
    found["menus"] = menus["authorized_menu_items"] if isinstance(menus, dict) else menus
    for path in ("assets", "jobs", "pools", "importErrors", "variables", "connections", "eventLogs"):
        found[path] = person.ask("GET", f"/api/v2/{path}")
    return found


def answers(person: Person) -> dict[str, dict[str, int]]:
    """What each DAG answers."""
    return {dag: answers_of(person, dag) for dag in DAGS}


def answers_of(person: Person, dag: str) -> dict[str, int]:
    path = f"/api/v2/dags/{dag}"
    run = f"{path}/dagRuns/{dag}"
    instances = {"dag_id": dag, "dag_run_id": dag, "task_id": "t", "new_state": "success"}
    bulk = {"actions": [{"action": "update", "entities": [instances]}]}
    new = {"dag_run_id": dag, "logical_date": None}
    found = {
        "see": person.ask("GET", path),
        "details": person.ask("GET", f"{path}/details"),
        "code": person.ask("GET", f"/api/v2/dagSources/{dag}"),
        "pause": person.ask("PATCH", path, {"is_paused": False}),
        "trigger": person.ask("POST", f"{path}/dagRuns", new),
        "run": person.ask("GET", run),
        "grid": person.ask("GET", f"/ui/grid/structure/{dag}"),
        "tasks": person.ask("GET", f"{run}/taskInstances"),
        "clear": person.ask("POST", f"{path}/clearTaskInstances", {"dry_run": True}),
        "note": person.ask("PATCH", run, {"note": "x"}),
        "backfill": person.ask("POST", "/api/v2/backfills/dry_run", {"dag_id": dag, **DAYS}),
        "remove run": person.ask("DELETE", run),
    }
    answer = person.get("/api/v2/dags/~/dagRuns/~/taskInstances", "PATCH", bulk)
    found["bulk"] = (
        answer if isinstance(answer, int) else [e["status_code"] for e in answer["update"]["errors"]]
    )
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
