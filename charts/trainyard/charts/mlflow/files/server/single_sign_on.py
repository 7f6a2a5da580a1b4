"""Single sign-on: an OpenID Connect provider says who a person is and in which groups; those say the role.

A page without a login leads to the provider and back; then the person has a session, a signed cookie. A
program sends the provider's ID token (MLFLOW_TRACKING_TOKEN of MLflow's client). Names and passwords stay for
the accounts of the platform, and for an administrator whose provider is down: on the page `/?password`.

The role is the account's, so that of all sessions and tokens of a person: what the provider said last counts.

SINGLE_SIGN_ON has the settings in JSON, those of `mlflow.auth.oidc` in the chart's values.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from accounts import ADMIN, ROLES, SIGNED_ON, give_role, is_newest, roles_of
from authlib.common.errors import AuthlibBaseError
from authlib.oidc.core import CodeIDToken
from cachetools import TTLCache
from flask import Response, redirect, request, session
from identity_provider import IdentityProvider
from joserfc.errors import JoseError
from mlflow.exceptions import MlflowException
from mlflow.server import app, auth
from requests import RequestException
from sqlalchemy.exc import IntegrityError
from werkzeug.datastructures import Authorization

LOGIN = "/oidc/login"
CALLBACK = "/oidc/callback"
LOGOUT = "/oidc/logout"
EVERYBODY = "*"  # in place of a group: whoever can log in at the provider
RANKS = ("viewer", "editor", "promoter", "admin")  # each may do what those before it may
# How long a token that was checked is not checked again, and for how many.
TOKENS, TOKEN_SECONDS = 10_000, 60
TRIES = 4  # as other processes may change the same account


class Refused(Exception):
    """Somebody may not log in; the text says why, to the person."""


@dataclass(frozen=True)
class Settings:
    """What the values say, and the secret by which the provider knows MLflow."""

    issuer: str
    client_id: str
    client_secret: str
    scopes: Sequence[str]
    username_claim: str
    groups_claim: str
    roles: Mapping[str, str]  # of each group
    require_verified_email: bool
    session_hours: float
    pages: Sequence[str]  # MLflow's addresses for people, scheme://host
    ca: str = ""  # a file of certificates that the provider's is signed by; empty: the usual ones

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Settings:
        """Return the settings of the environment."""
        values = json.loads(environ["SINGLE_SIGN_ON"])
        secret = Path(values.pop("client_secret_file")).read_text().strip()
        return cls(**values, client_secret=secret)

    def name(self, claims: Mapping[str, Any]) -> str:
        """Return the name of whom the provider describes; Refused."""
        name = claims.get(self.username_claim)
        if not isinstance(name, str) or not name:
            raise Refused(f"The identity provider does not say your {self.username_claim}.")
        needs_proof = self.username_claim == "email" and self.require_verified_email
        if needs_proof and claims.get("email_verified") is not True:
            raise Refused(
                f"The identity provider does not say that it has verified {name} (email_verified). Where"
                " people cannot choose their address, set mlflow.auth.oidc.requireVerifiedEmail to false."
            )
        return name

    def role(self, claims: Mapping[str, Any]) -> str | None:
        """Return what the groups of whom the provider describes may do at most, None for nothing."""
        given = claims.get(self.groups_claim) or []
        groups = [given] if isinstance(given, str) else given
        roles = {self.roles[group] for group in (*groups, EVERYBODY) if group in self.roles}
        return max(roles, key=RANKS.index, default=None)

    def needs_groups(self) -> bool:
        """Return whether a token without groups leaves open what somebody may do."""
        return any(group != EVERYBODY for group in self.roles)


class SingleSignOn:
    """Finds out who sends a request, of people whom the provider knows."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Without a page there is a port-forward, by HTTP.
        secure = bool(settings.pages) and all(page.startswith("https:") for page in settings.pages)
        # Of this MLflow alone: browsers send cookies to every port of a host, and Airflow's is `session`.
        own = hashlib.sha256(str(app.secret_key).encode()).hexdigest()[:12]
        app.config["SESSION_COOKIE_NAME"] = f"{'__Host-' if secure else ''}mlflow-{own}"
        app.config["SESSION_COOKIE_SECURE"] = secure
        # Pages of other sites send no cookie with what they post.
        app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
        self._provider = IdentityProvider.of(
            app,
            settings.issuer,
            settings.client_id,
            settings.client_secret,
            " ".join(settings.scopes),
            settings.ca,
        )
        self._tokens: TTLCache[bytes, str] = TTLCache(TOKENS, TOKEN_SECONDS)
        self._lock = threading.Lock()  # of the tokens

    def authenticate(self) -> Authorization | Response:
        """Return who sends the request, or the answer to it."""
        try:
            return self._authenticate()
        except Refused as error:
            return _answer(403, str(error))
        except RequestException as error:
            return _answer(502, f"The identity provider {self.settings.issuer} does not answer: {error}")

    def _authenticate(self) -> Authorization | Response:
        if request.path == LOGIN:
            return self._provider.go(f"{self._address()}{CALLBACK}", _own_page(request.args.get("page", "")))
        if request.path == CALLBACK:
            return self._come_back()
        if request.path == LOGOUT:
            session.clear()
            return _answer(200, "You have left MLflow. The identity provider may still know you.")
        given = request.authorization
        if given is not None and given.type == "bearer":
            return self._by_token(given.token or "")
        if given is None and (name := self._of_session()):
            return _authorization(name)
        if given is None and _is_page() and "password" not in request.args:
            # By a page of Flask's: where FastAPI serves this one, no cookie could be set.
            return redirect(f"{LOGIN}?{urlencode({'page': _wanted_page()})}")
        answer = auth.authenticate_request_basic_auth()
        if isinstance(answer, Response) and _is_script_of_page():
            # Else the browser would ask for a password in the middle of a page.
            return _answer(401, "Your session has ended: load the page again.")
        return answer

    def _come_back(self) -> Response:
        """Begin a session for whom the provider sends, and show the page that he wanted."""
        page = self._provider.page() or "/"
        try:
            token = self._provider.authorize_access_token(claims_options=self._claims())
        except (AuthlibBaseError, JoseError) as error:
            if self._of_session():
                return redirect(page)  # after the login, by the browser's way back
            raise Refused(f"The identity provider let nobody in ({error}). Open MLflow again.") from error
        claims = dict(token["userinfo"])
        if self.settings.groups_claim not in claims and "userinfo_endpoint" in self._provider.server_metadata:
            # Some providers tell more there than in the token. The subject has to be the same.
            more = self._provider.userinfo(token=token)
            if more.get("sub") == claims["sub"]:
                claims = {**more, **claims}
        name = self._declare(claims)
        session.clear()
        session.update(name=name, until=time.time() + self.settings.session_hours * 3600)
        return redirect(page)

    def _by_token(self, token: str) -> Authorization | Response:
        """Return whom an ID token is for."""
        digest = hashlib.sha256(token.encode()).digest()
        with self._lock:
            known = self._tokens.get(digest)
        if known and _may_enter(known):
            return _authorization(known)
        try:
            claims = self._provider.parse_id_token(
                {"id_token": token}, nonce=None, claims_options=self._claims(), claims_cls=CodeIDToken
            )
        except (AuthlibBaseError, JoseError, ValueError) as error:
            return _answer(401, f"The token is of no use here: {error}", {"WWW-Authenticate": "Bearer"})
        if self.settings.needs_groups() and self.settings.groups_claim not in claims:
            raise Refused(
                f"The token does not say your {self.settings.groups_claim}. Let the identity provider write"
                " that claim into ID tokens, or log in on MLflow's pages."
            )
        name = self._declare(claims)
        with self._lock:
            self._tokens[digest] = name
        return _authorization(name)

    def _claims(self) -> dict[str, dict[str, Any]]:
        """Return what a token has to say: it is from this provider, and for MLflow."""
        return {
            "iss": {"essential": True, "value": self.settings.issuer},
            "aud": {"essential": True, "value": self.settings.client_id},
        }

    def _declare(self, claims: Mapping[str, Any]) -> str:
        """Make or change the account of whom the provider describes, and return its name; Refused."""
        name, role = self.settings.name(claims), self.settings.role(claims)
        for left in reversed(range(TRIES)):
            try:
                _give_account(name, role, int(claims["iat"]))
                break
            except (MlflowException, IntegrityError):  # another process has done it at the same time
                if not left:
                    raise
        if not _may_enter(name):
            raise Refused(f"{name} is in no group that has a role in MLflow.")
        return name

    def _of_session(self) -> str | None:
        """Return whose session it is, or None if there is none, or no longer."""
        name = session.get("name")
        if not name or session.get("until", 0) < time.time():
            return None
        return name if _may_enter(name) else None

    def _address(self) -> str:
        """Return MLflow's address as the browser knows it, which behind an Ingress is another."""
        for page in self.settings.pages:
            if page.partition("://")[2] == request.host:
                return page
        return f"http://{request.host}"


def _authorization(name: str) -> Authorization:
    return Authorization("basic", {"username": name, "password": ""})


def _give_account(name: str, role: str | None, said: int) -> None:
    """Give somebody this role, unless the provider has said something else since. May end at any step."""
    # Nobody knows it. It tells an account that was made here, and has no mark yet, from one of somebody else.
    key = str(app.secret_key).encode()
    password = hmac.new(key, f"single sign-on of {name}".encode(), hashlib.sha256).hexdigest()
    if not auth.store.has_user(name):
        if role is None:
            return
        auth.store.create_user(name, password)
    elif SIGNED_ON not in roles_of(auth.store, name) and not auth.store.authenticate_user(name, password):
        raise Refused(f"MLflow has an account {name} with a password: log in by that, at /?password.")
    if is_newest(auth.store, name, said):
        give_role(auth.store, name, role, SIGNED_ON)


def _may_enter(name: str) -> bool:
    """Return whether an account came from the provider, and has a role that it gave."""
    try:
        found = roles_of(auth.store, name)
    except MlflowException:  # there is none; an administrator may have removed it
        return False
    return SIGNED_ON in found and bool(found & {*ROLES, ADMIN})


def _wanted_page() -> str:
    query = request.query_string.decode(errors="replace")
    return f"{quote(request.path)}?{query}" if query else quote(request.path)


def _own_page(page: str) -> str:
    """Return the address of a page of ours, without what browsers would take for another host."""
    return "/" + quote(page.lstrip("/\\"), safe="/?&=%:;,+~@!$'()*")


def _is_page() -> bool:
    """Return whether a browser wants to show the answer to a person."""
    return request.method == "GET" and "text/html" in request.headers.get("Accept", "")


def _is_script_of_page() -> bool:
    return request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"


def _answer(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(f"{text}\n", status, headers, mimetype="text/plain")
