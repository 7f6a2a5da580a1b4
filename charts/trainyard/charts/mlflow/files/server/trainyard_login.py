"""Who may log in to MLflow: the `authorization_function` of MLflow's own login.

It is MLflow's check of name and password, with single sign-on beside it where the values say so. It closes
what MLflow leaves open to everybody who logs in: to create an experiment or a registered model, which makes
its creator the owner. A training pod that created a model before the first promotion would own its aliases.

Where teams share MLflow, it divides what the accounts of training pods may write: teams.py.

It also lets what is missing be missing. MLflow answers "permission denied" for it, so that nobody learns
which names there are; here everybody may read all, and clients tell what is new from what is forbidden.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from flask import Response, request
from mlflow.server import auth
from mlflow.server.handlers import _get_model_registry_store, _get_tracking_store
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from werkzeug.datastructures import Authorization

if TYPE_CHECKING:
    from single_sign_on import SingleSignOn
    from teams import Teams

# The end of a route -> the type of resource of which the user has to be allowed to change all. Passwords come
# from Secrets: one that an account changed itself would hold until the next start.
RESTRICTED = {
    "/mlflow/experiments/create": "experiment",
    "/mlflow/registered-models/create": "registered_model",
    "/mlflow/users/update-password": None,  # administrators only
}


def single_sign_on() -> SingleSignOn | None:
    """Return what the values say of it, or None where there is none."""
    if "SINGLE_SIGN_ON" not in os.environ:
        return None
    # Here, as it needs a package that an image of one's own may not have.
    from single_sign_on import Settings, SingleSignOn

    return SingleSignOn(Settings.read(os.environ))


def teams() -> Teams | None:
    """Return how the values divide what training pods may write, or None where they do not."""
    if "TEAMS" not in os.environ:
        return None
    from teams import Teams

    return Teams.read(os.environ, auth.store)


SINGLE_SIGN_ON = single_sign_on()
TEAMS = teams()


def authenticate() -> Authorization | Response:
    """Return who sends the request, when he proves it and the request is one that he may send."""
    found = SINGLE_SIGN_ON.authenticate() if SINGLE_SIGN_ON else auth.authenticate_request_basic_auth()
    if isinstance(found, Response):
        return found
    is_divided = TEAMS is not None and found.username in TEAMS
    if is_divided:
        TEAMS.refuse(found.username)
    if not request.url_rule:
        return found
    if request.method == "GET":
        find_what_is_read(request.url_rule.rule)
    for route, kind in RESTRICTED.items():
        if is_divided and kind == "experiment":
            continue  # its name has decided
        if request.url_rule.rule.endswith(route) and not may_change_all(found.username, kind):
            return auth.make_forbidden_response()
    return found


def find_what_is_read(route: str) -> None:
    """Raise MLflow's own error if what a request reads does not exist."""
    if "/mlflow/registered-models/" in route or "/mlflow/model-versions/" in route:
        if name := request.args.get("name"):
            _get_model_registry_store().get_registered_model(name)
    elif "/mlflow/runs/" in route:
        if run_id := request.args.get("run_id"):
            _get_tracking_store().get_run(run_id)
    elif model_id := (request.view_args or {}).get("model_id"):
        _get_tracking_store().get_logged_model(model_id)


def may_change_all(username: str | None, kind: str | None) -> bool:
    """Return whether the user may change every resource of this type."""
    user = auth.store.get_user(username)
    if user.is_admin or kind is None:
        return bool(user.is_admin)
    granted = auth.store.get_role_permission_for_resource(user.id, kind, "*", DEFAULT_WORKSPACE_NAME)
    return granted is not None and granted.can_update
