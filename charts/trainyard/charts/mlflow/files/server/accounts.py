"""Accounts and roles of MLflow's login, for what declares them and for single sign-on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Column, MetaData, String, Table, insert, select, update

if TYPE_CHECKING:
    from mlflow.server.auth.entities import Role, User
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
    # Of training pods where there are teams: it may write the experiments that teams.py says are its own.
    "team-trainer": {},
}
# Nobody but an administrator needs what follows, and anybody might create it.
DENIED = dict.fromkeys(
    ("gateway_secret", "gateway_endpoint", "gateway_model_definition", "mcp_server"), "DENY"
)
# A role without rights of its own: who has it came from ACCOUNTS.
DECLARED = "declared"
# The same for those that came from the identity provider, who have no password.
SIGNED_ON = "signed-on"
# What is here by name alone.
MARKS = (DECLARED, SIGNED_ON)
# When the identity provider said what an account's role was taken from, in seconds since 1970.
SAID = Table(
    "trainyard_said",
    MetaData(),
    Column("username", String(255), primary_key=True),
    Column("at", BigInteger, nullable=False),
)


def declare_role(store: SqlAlchemyStore, name: str, rights: Mapping[str, str]) -> Role:
    """Make a role, or give it these rights and no others."""
    role = roles_by_name(store).get(name) or store.create_role(name, WORKSPACE, "from the chart")
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


def roles_by_name(store: SqlAlchemyStore) -> dict[str, Role]:
    """Return the roles that there are, also those that an administrator made."""
    return {role.name: role for role in store.list_roles([WORKSPACE])}


def roles_of(store: SqlAlchemyStore, name: str) -> set[str]:
    """Return which of the chart's roles and marks an account has."""
    user = store.get_user(name)
    return _assigned(store, user) | ({ADMIN} if user.is_admin else set())


def give_role(store: SqlAlchemyStore, name: str, role: str | None, mark: str) -> None:
    """Give an account this role, or none, and this mark, and no other of those that the chart makes."""
    user = store.update_user(name, is_admin=role == ADMIN)
    known = roles_by_name(store)
    present, wanted = _assigned(store, user), {mark, role} & {*ROLES, *MARKS}
    for each in wanted - present:
        store.assign_role_to_user(user.id, known[each].id)
    for each in present - wanted:
        store.unassign_role_from_user(user.id, known[each].id)


def _assigned(store: SqlAlchemyStore, user: User) -> set[str]:
    return {role.name for role in store.list_user_roles(user.id)} & {*ROLES, *MARKS}


def is_newest(store: SqlAlchemyStore, name: str, at: int) -> bool:
    """Note when something was said of an account; return False if something later is known."""
    mine = SAID.c.username == name
    with store.engine.begin() as database:
        if database.execute(update(SAID).where(mine, SAID.c.at <= at).values(at=at)).rowcount:
            return True
        if database.execute(select(SAID).where(mine)).first():
            return False
        database.execute(insert(SAID).values(username=name, at=at))
        return True
