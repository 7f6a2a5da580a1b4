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

from accounts import DECLARED, DENIED, MARKS, ROLES, SAID, declare_role, give_role
from mlflow.db import commands

if TYPE_CHECKING:
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

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


def declare_account(store: SqlAlchemyStore, name: str, password: str, role: str) -> None:
    """Make an account, or give it this password and role."""
    if not store.has_user(name):
        store.create_user(name, password)
    elif not store.authenticate_user(name, password):
        store.update_user(name, password=password)
    give_role(store, name, role, DECLARED)
    print(f"{name}: {role}", flush=True)


def declare(store: SqlAlchemyStore, accounts: Mapping[str, str], passwords: Path) -> None:
    """Make roles and accounts, and remove what was an account here before."""
    SAID.create(store.engine, checkfirst=True)
    for name, rights in ROLES.items():
        declare_role(store, name, {**rights, **DENIED})
    for name in MARKS:
        declare_role(store, name, {})
    for name, role in accounts.items():
        declare_account(store, name, (passwords / name).read_text().strip(), role)
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
