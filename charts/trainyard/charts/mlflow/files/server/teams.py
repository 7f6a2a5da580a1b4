"""Whose an experiment is where the training pods of each team have an account of their own: its name says it.

Such an account may write what is its own, and read all else. MLflow knows grants for single experiments, and
asks for them wherever something below one is written: a run, a logged model, a trace, an artifact. So here an
account is granted each experiment whose name is its own, at the time of the request, and nothing else that
MLflow has noted for it. One that was there before, has another name now or was made by somebody else is whose
its name says. What is not granted is refused, also by routes that this file knows nothing of.

TEAMS is a JSON object, account -> the names of its experiments, or their beginnings followed by one `*`.
`trainer` has what no other account has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence

from flask import request
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.protos.service_pb2 import CreateExperiment, StartTraceV3
from mlflow.server.auth.db.models import SqlUser
from mlflow.server.auth.permissions import DENY, EDIT
from mlflow.server.auth.sqlalchemy_store import RoleGrantRow, SqlAlchemyStore
from mlflow.server.handlers import (
    _get_normalized_request_json,
    _get_request_message,
    _get_tracking_store,
)
from mlflow.store.tracking.dbmodels.models import SqlExperiment
from sqlalchemy import select

REST = "trainer"
# How requests name what they write, by MLflow's names and aliases -> what it is.
ID_NAMES = {
    "experiment_id": "experiment_id",
    "run_id": "run_id",
    "run_uuid": "run_id",
    "model_id": "model_id",
    "trace_id": "trace_id",
    "request_id": "trace_id",
    "dataset_id": "dataset_id",
    "issue_id": "issue_id",
    "assessment_id": "assessment_id",
    "queue_id": "queue_id",
    "schema_id": "schema_id",
}


class Teams:
    """The accounts of training pods, and what each may write."""

    def __init__(self, accounts: Mapping[str, Sequence[str]], store: SqlAlchemyStore) -> None:
        self._accounts = accounts
        self._store = store
        self._stored_grants = store.list_grants
        store.list_grants = self._list_grants  # what MLflow asks whenever it decides

    @classmethod
    def read(cls, environ: Mapping[str, str], store: SqlAlchemyStore) -> Teams:
        """Return what the environment says; without teams nobody's account is one of these."""
        return cls(json.loads(environ["TEAMS"]), store)

    def __contains__(self, account: object) -> bool:
        return account in self._accounts

    def owner(self, experiment: str) -> str:
        """Return the account whose an experiment of this name is."""
        for account, names in self._accounts.items():
            if any(_matches(name, experiment) for name in names):
                return account
        return REST

    def refuse(self, account: str) -> None:
        """Raise 403 if the request is what no grant covers, and this account may not do."""
        # `url_rule` is of Flask's routes alone.
        route = request.url_rule.rule if request.url_rule else request.path
        if route.endswith("/mlflow/experiments/create"):
            self._refuse_creation(account)
        elif route.endswith("/mlflow/experiments/update"):
            raise _denied("training pods rename no experiment, as its name says whose it is")
        elif route.endswith("/3.0/mlflow/traces") and request.method == "POST":
            self._refuse_taking_a_trace(account)
        elif route.startswith("/v1/traces"):
            raise _denied("training pods send no spans by OTLP, which may be of any trace")
        elif route.endswith("/mlflow/demo/generate"):
            raise _denied("training pods make no demo")
        if two := _named_twice():
            # MLflow may decide by the one, and write the other.
            raise _denied(f"the request has two values for {two}; send one")

    def _refuse_creation(self, account: str) -> None:
        asked = _get_request_message(CreateExperiment())
        if self.owner(asked.name) != account:
            own = ", ".join(self._accounts[account]) or "names that are no team's"
            raise _denied(
                f"{account} makes no experiment {asked.name}, but {own} (teams.*.dags in the values). Leave"
                " MLFLOW_EXPERIMENT_NAME alone, so that it is the DAG's id"
            )
        if asked.artifact_location:
            # MLflow itself writes there, and it may be where the artifacts of another experiment are.
            raise _denied("training pods choose no artifact_location; leave it out")

    def _refuse_taking_a_trace(self, account: str) -> None:
        """MLflow would move a trace that is there to the experiment which the request names."""
        asked = _get_request_message(StartTraceV3()).trace.trace_info
        if asked.assessments:
            # MLflow stores each by an id of the request's own choice.
            raise _denied("training pods start no trace with assessments; send them afterwards")
        try:
            found = _get_tracking_store().get_trace_info(asked.trace_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return
        if found.experiment_id not in self._own(account):
            raise _denied(f"the trace {asked.trace_id} is in an experiment that is not {account}'s")

    def _list_grants(
        self, user_id: int, workspace: str, resource_types: Collection[str]
    ) -> list[RoleGrantRow]:
        """Return what MLflow has noted for a user; for one of these accounts what its names say instead."""
        found = self._stored_grants(user_id, workspace, resource_types)
        account = self._account(user_id)
        if account is None:
            return found
        denied = [each for each in found if each.permission == DENY.name]
        if "experiment" not in resource_types:
            return denied
        return denied + [RoleGrantRow("experiment", each, EDIT.name) for each in self._own(account)]

    def _account(self, user_id: int) -> str | None:
        """Return the one of these accounts that a user is, if he is one."""
        with self._store.engine.connect() as database:
            name = database.execute(select(SqlUser.username).where(SqlUser.id == user_id)).scalar()
        return name if name in self else None

    def _own(self, account: str) -> list[str]:
        """Return the ids of an account's experiments. MLflow's login and its runs are in one database."""
        with self._store.engine.connect() as database:
            found = database.execute(select(SqlExperiment.experiment_id, SqlExperiment.name)).all()
        return [str(number) for number, name in found if self.owner(name) == account]


def _matches(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _named_twice() -> str | None:
    """Return which id has several values in the request: in its path, behind `?` or in its body."""
    try:
        body = _get_normalized_request_json(request)
    except (MlflowException, ValueError):  # no JSON, which no handler takes for it
        body = {}
    found: dict[str, set[str]] = {}
    body_items = body.items() if isinstance(body, dict) else ()
    for key, value in (*(request.view_args or {}).items(), *request.args.items(multi=True), *body_items):
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()
        if name in ID_NAMES:
            found.setdefault(ID_NAMES[name], set()).add(str(value))
    return next((name for name, values in found.items() if len(values) > 1), None)


def _denied(why: str) -> MlflowException:
    return MlflowException(f"Permission denied: {why}.", error_code=PERMISSION_DENIED)
