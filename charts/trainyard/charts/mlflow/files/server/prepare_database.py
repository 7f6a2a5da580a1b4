"""Bring MLflow's database up to date; with a login, also its accounts, roles and settings.

The database is MLFLOW_BACKEND_STORE_URI. With a login, ACCOUNTS is a JSON object, name -> role; the password
of each is the file of its name in ACCOUNTS_DIRECTORY. An account that ACCOUNTS no longer has is removed; what
an administrator made in MLflow stays as it is. The settings of MLflow's login, which hold the database's URL,
are written to MLFLOW_AUTH_CONFIG_PATH.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.db import commands

if TYPE_CHECKING:
    from mlflow.server.auth.entities import Role
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

ADMIN = "admin"  # the role of administrators, which MLflow knows as a property of the user
WORKSPACE = "default"
# Everybody who logs in may read. A role may do more, with every resource of a type. What it says of runs and
# logged models goes before what it says of their experiment, also of one that the user made and owns: who may
# only EDIT them deletes neither them nor the experiment.
ROLES: Mapping[str, Mapping[str, str]] = {
    "viewer": {},
    "trainer": {"experiment": "EDIT", "run": "EDIT", "logged_model": "EDIT"},
    "editor": {"experiment": "MANAGE", "run": "MANAGE", "logged_model": "MANAGE"},
    "promoter": {"experiment": "EDIT", "run": "EDIT", "registered_model": "MANAGE"},
}
# Nobody but an administrator needs what follows, and anybody might create it.
DENIED = dict.fromkeys(
    ("gateway_secret", "gateway_endpoint", "gateway_model_definition", "mcp_server"), "DENY"
)
# A role without rights of its own: who has it came from ACCOUNTS.
DECLARED = "declared"
SETTINGS = """[mlflow]
default_permission = READ
database_uri = {uri}
admin_username = admin
authorization_function = trainyard_login:authenticate
auth_cache_ttl_seconds = 60
"""


def write_settings(uri: str, file: Path) -> None:
    """Write the settings of MLflow's login, for nobody else to read."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(SETTINGS.format(uri=uri.replace("%", "%%")))


def declare_role(store: SqlAlchemyStore, name: str, rights: Mapping[str, str]) -> Role:
    """Make a role, or give it these rights and no others."""
    known = {role.name: role for role in store.list_roles([WORKSPACE])}
    role = known.get(name) or store.create_role(name, WORKSPACE, "from the chart")
    present = {
        (each.resource_type, each.resource_pattern, each.permission): each for each in role.permissions
    }
    wanted = {(kind, "*", permission) for kind, permission in rights.items()}
    for key, each in present.items():
        if key not in wanted:
            store.remove_role_permission(each.id)
    for key in wanted - present.keys():
        store.add_role_permission(role.id, *key)
    return role


def declare_account(
    store: SqlAlchemyStore, name: str, password: str, role: str, roles: Mapping[str, Role]
) -> None:
    """Make an account, or give it this password and role."""
    if not store.has_user(name):
        store.create_user(name, password)
    elif not store.authenticate_user(name, password):
        store.update_user(name, password=password)
    user = store.update_user(name, is_admin=role == ADMIN)
    present = {each.name for each in store.list_user_roles(user.id)}
    wanted = {DECLARED, role} & roles.keys()
    for each in wanted - present:
        store.assign_role_to_user(user.id, roles[each].id)
    for each in present & (roles.keys() - wanted):
        store.unassign_role_from_user(user.id, roles[each].id)
    print(f"{name}: {role}", flush=True)


def declare(store: SqlAlchemyStore, accounts: Mapping[str, str], passwords: Path) -> None:
    """Make roles and accounts, and remove what was an account here before."""
    roles = {name: declare_role(store, name, {**rights, **DENIED}) for name, rights in ROLES.items()}
    roles[DECLARED] = declare_role(store, DECLARED, {})
    for name, role in accounts.items():
        declare_account(store, name, (passwords / name).read_text().strip(), role, roles)
    for user, own_roles in store.list_users_with_roles():
        if user.username not in accounts and DECLARED in {role.name for role in own_roles}:
            store.delete_user(user.username)
            print(f"{user.username}: removed", flush=True)


def main() -> None:
    """Do it."""
    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
    # In this process: as a command it would have the password among its arguments.
    commands.main(["upgrade", uri], standalone_mode=False)
    if "ACCOUNTS" not in os.environ:
        return
    write_settings(uri, Path(os.environ["MLFLOW_AUTH_CONFIG_PATH"]))
    # Reads the settings when it is imported.
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore()
    store.init_db(uri)  # makes its tables, or brings them up to date
    declare(store, json.loads(os.environ["ACCOUNTS"]), Path(os.environ["ACCOUNTS_DIRECTORY"]))


if __name__ == "__main__":
    main()
