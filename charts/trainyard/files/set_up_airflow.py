"""Create or overwrite Airflow's pools and the roles of teams through its public API. Standard library only.

POOLS is a JSON list of {name, slots, description, include_deferred}, ROLES one of names. Others are not
changed.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

PATIENCE_SECONDS = 600
READ, EDIT, CREATE, DELETE, MENU = "can_read", "can_edit", "can_create", "can_delete", "menu_access"
# What the users of a team's role may do: as those of Airflow's role User, but for what shows or starts DAGs
# of others (all DAGs, assets, jobs). A right on runs or tasks counts for those of DAGs that they may see.
RIGHTS = {
    "DAGs": (MENU,),
    "DAG Code": (READ,),
    "DAG Dependencies": (READ, MENU),
    "DAG Runs": (READ, CREATE, EDIT, DELETE, MENU),
    "DAG Versions": (READ,),
    "DAG Warnings": (READ,),
    "Docs": (MENU,),
    "Documentation": (MENU,),
    "HITL Detail": (READ, EDIT),
    "ImportError": (READ,),
    "My Password": (READ, EDIT),
    "My Profile": (READ, EDIT),
    "Pools": (READ,),
    "Task Instances": (READ, CREATE, EDIT, DELETE, MENU),
    "Task Logs": (READ,),
    "Website": (READ,),
    "XComs": (READ,),
}
# Rights on one DAG, which the dag-processor writes.
OF_A_DAG = ("DAG:", "DAG Run:")
ROLES = "/auth/fab/v1/roles"


def call(method: str, path: str, body: dict[str, Any] | None = None, token: str = "") -> Any:
    """Call Airflow's API with a JSON body and return the JSON response. Raises urllib.error.URLError."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    url = os.environ["AIRFLOW_URL"] + path
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def log_in() -> str:
    """Return a token of the admin user; wait until the api-server responds and the user exists."""
    credentials = {"username": os.environ["ADMIN_USERNAME"], "password": os.environ["ADMIN_PASSWORD"]}
    deadline = time.monotonic() + PATIENCE_SECONDS
    reported = ""
    while True:
        try:
            return str(call("POST", "/auth/token", credentials)["access_token"])
        except OSError as error:
            if time.monotonic() > deadline:
                raise
            if str(error) != reported:
                reported = str(error)
                print(f"waiting for the api-server: {reported}", flush=True)
            time.sleep(3)


def write_pools(pools: list[dict[str, Any]], token: str) -> None:
    """Write the pools. Exits with an error that names each pool that Airflow rejected."""
    action = {"action": "create", "entities": pools, "action_on_existence": "overwrite"}
    response = call("PATCH", "/api/v2/pools", {"actions": [action]}, token)["create"]
    if response["errors"]:
        raise SystemExit(f"Airflow rejected pools: {response['errors']}")
    print(f"pools: {', '.join(response['success'])}", flush=True)


def write_role(name: str, token: str) -> None:
    """Give a role RIGHTS, and no others beside those on single DAGs. Exits with Airflow's error."""
    wanted = [
        {"action": {"name": action}, "resource": {"name": resource}}
        for resource, actions in RIGHTS.items()
        for action in actions
    ]
    try:
        found = read_role(name, token)
        if found is None:
            call("POST", ROLES, {"name": name, "actions": wanted}, token)
        else:
            kept = [each for each in found["actions"] if each["resource"]["name"].startswith(OF_A_DAG)]
            call("PATCH", path_of(name), {"name": name, "actions": wanted + kept}, token)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"Airflow rejected role {name}: {error}: {error.read().decode()}") from None
    print(f"role: {name}", flush=True)


def read_role(name: str, token: str) -> dict[str, Any] | None:
    """Return the role as Airflow has it; None if there is none."""
    try:
        role: dict[str, Any] = call("GET", path_of(name), token=token)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return None
    return role


def path_of(role: str) -> str:
    """Return the path of a role in the API."""
    return f"{ROLES}/{urllib.parse.quote(role, safe='')}"


def main() -> None:
    """Write the pools, then the roles."""
    token = log_in()
    if pools := json.loads(os.environ.get("POOLS", "[]")):
        write_pools(pools, token)
    for role in json.loads(os.environ.get("ROLES", "[]")):
        write_role(role, token)


if __name__ == "__main__":
    main()
