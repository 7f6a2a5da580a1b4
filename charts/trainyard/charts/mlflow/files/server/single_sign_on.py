"""Single sign-on: an OpenID Connect provider says who a person is and in which groups; those say the role.

A page without a login leads to the provider and back; then the person has a session, a signed cookie. A
program sends the provider's ID token (MLFLOW_TRACKING_TOKEN of MLflow's client). Names and passwords stay for
the accounts of the platform, and for an administrator whose provider is down: on the page `/?password`.

SINGLE_SIGN_ON has the settings in JSON, those of `mlflow.auth.oidc` in the chart's values.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from accounts import SIGNED_ON, give_role, marks
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.flask_client import OAuth
from authlib.oidc.core import CodeIDToken
from cachetools import TTLCache
from flask import Response, redirect, request, session
from joserfc.errors import JoseError
from mlflow.exceptions import MlflowException
from mlflow.server import app, auth
from requests import RequestException
from werkzeug.datastructures import Authorization

CALLBACK = "/oidc/callback"
LOGOUT = "/oidc/logout"
EVERYBODY = "*"  # in place of a group: whoever can log in at the provider
ROLES = ("viewer", "editor", "promoter", "admin")  # each may do what those before it may
# How long a token that was checked is not checked again, and for how many.
TOKENS, TOKEN_SECONDS = 10_000, 60
# By a key of the provider's that others cannot have.
SIGNED = {f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)} | {"EdDSA", "Ed25519"}
PROVIDER_SECONDS = 10  # how long the provider may take to answer


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
    session_hours: float
    pages: Sequence[str]  # MLflow's addresses for people, scheme://host
    ca: str = ""  # a file of certificates that the provider's is signed by; empty: the usual ones

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Settings:
        """Return the settings of the environment."""
        values = json.loads(environ["SINGLE_SIGN_ON"])
        secret = Path(values.pop("client_secret_file")).read_text().strip()
        return cls(**values, client_secret=secret)

    def account(self, claims: Mapping[str, Any]) -> tuple[str, str]:
        """Return the name and the role of whom the provider describes; Refused."""
        name = claims.get(self.username_claim)
        if not isinstance(name, str) or not name:
            raise Refused(f"The identity provider does not say your {self.username_claim}.")
        if self.username_claim == "email" and claims.get("email_verified") is False:
            raise Refused(f"The identity provider has not verified that {name} is your address.")
        given = claims.get(self.groups_claim) or []
        groups = [given] if isinstance(given, str) else given
        roles = {self.roles[group] for group in (*groups, EVERYBODY) if group in self.roles}
        if not roles:
            raise Refused(f"{name} is in no group that has a role in MLflow.")
        return name, max(roles, key=ROLES.index)


class SingleSignOn:
    """Finds out who sends a request, of people whom the provider knows."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Pages of other sites send no cookie with what they post.
        app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
        # Without a page there is a port-forward, by HTTP.
        secure = [page.startswith("https:") for page in settings.pages]
        app.config["SESSION_COOKIE_SECURE"] = bool(secure) and all(secure)
        self._provider = OAuth(app).register(
            "provider",
            server_metadata_url=f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration",
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            client_kwargs={
                "scope": " ".join(settings.scopes),
                "code_challenge_method": "S256",
                "default_timeout": PROVIDER_SECONDS,
                **({"verify": settings.ca} if settings.ca else {}),
            },
        )
        self._tokens: TTLCache[bytes, str] = TTLCache(TOKENS, TOKEN_SECONDS)
        self._lock = threading.Lock()

    def authenticate(self) -> Authorization | Response:
        """Return who sends the request, or the answer to it."""
        try:
            return self._authenticate()
        except Refused as error:
            return _answer(403, str(error))
        except RequestException as error:
            return _answer(502, f"The identity provider {self.settings.issuer} does not answer: {error}")

    def _authenticate(self) -> Authorization | Response:
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
            return self._go()
        answer = auth.authenticate_request_basic_auth()
        if isinstance(answer, Response) and _is_script_of_page():
            # Else the browser would ask for a password in the middle of a page.
            return _answer(401, "Your session has ended: load the page again.")
        return answer

    def _go(self) -> Response:
        """Lead the browser to the provider."""
        # Two slashes, and what browsers take for such, would lead to another host.
        path, query = quote(request.path.lstrip("/\\")), request.query_string.decode(errors="replace")
        session["page"] = f"/{path}?{query}" if query else f"/{path}"
        return self._provider.authorize_redirect(f"{self._address()}{CALLBACK}")

    def _come_back(self) -> Response:
        """Begin a session for whom the provider sends, and show the page that he wanted."""
        try:
            token = self._provider.authorize_access_token(claims_options=self._claims())
        except (AuthlibBaseError, JoseError) as error:
            raise Refused(f"The identity provider let nobody in ({error}). Open MLflow again.") from error
        claims = dict(token["userinfo"])
        if self.settings.groups_claim not in claims and "userinfo_endpoint" in self._provider.server_metadata:
            # Some providers tell more there than in the token. The subject has to be the same.
            more = self._provider.userinfo(token=token)
            if more.get("sub") == claims["sub"]:
                claims = {**more, **claims}
        name = self._declare(claims)
        page = session.get("page", "/")
        session.clear()
        session.update(name=name, until=time.time() + self.settings.session_hours * 3600)
        return redirect(page)

    def _by_token(self, token: str) -> Authorization | Response:
        """Return whom an ID token is for."""
        digest = hashlib.sha256(token.encode()).digest()
        with self._lock:
            known = self._tokens.get(digest)
        if known:
            return _authorization(known)
        try:
            claims = self._provider.parse_id_token(
                {"id_token": token}, nonce=None, claims_options=self._claims(), claims_cls=CodeIDToken
            )
        except (AuthlibBaseError, JoseError, ValueError) as error:
            return _answer(401, f"The token is of no use here: {error}", {"WWW-Authenticate": "Bearer"})
        name = self._declare(claims)
        with self._lock:
            self._tokens[digest] = name
        return _authorization(name)

    def _claims(self) -> dict[str, dict[str, Any]]:
        """Return what a token has to say: it is from this provider, and for MLflow."""
        # A provider may list `none` as well, and authlib would take a token that nobody has signed.
        metadata = self._provider.load_server_metadata()
        listed = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
        metadata["id_token_signing_alg_values_supported"] = [name for name in listed if name in SIGNED]
        return {
            "iss": {"essential": True, "value": self.settings.issuer},
            "aud": {"essential": True, "value": self.settings.client_id},
        }

    def _declare(self, claims: Mapping[str, Any]) -> str:
        """Make or change the account of whom the provider describes, and return its name; Refused."""
        name, role = self.settings.account(claims)
        try:
            self._give_account(name, role)
        except MlflowException:  # another process has made it at the same time
            self._give_account(name, role)
        return name

    def _give_account(self, name: str, role: str) -> None:
        with self._lock:
            if not auth.store.has_user(name):
                auth.store.create_user(name, secrets.token_urlsafe(32))
            elif SIGNED_ON not in marks(auth.store, name):
                raise Refused(f"MLflow has an account {name} with a password: log in by that, at /?password.")
            give_role(auth.store, name, role, SIGNED_ON)

    def _of_session(self) -> str | None:
        """Return whose session it is, or None if there is none, or no longer."""
        name = session.get("name")
        if not name or session.get("until", 0) < time.time():
            return None
        try:
            return name if SIGNED_ON in marks(auth.store, name) else None
        except MlflowException:  # an administrator has removed him
            return None

    def _address(self) -> str:
        """Return MLflow's address as the browser knows it, which behind an Ingress is another."""
        for page in self.settings.pages:
            if page.partition("://")[2] == request.host:
                return page
        return f"http://{request.host}"


def _authorization(name: str) -> Authorization:
    return Authorization("basic", {"username": name, "password": ""})


def _is_page() -> bool:
    """Return whether a browser wants to show the answer to a person."""
    return request.method == "GET" and "text/html" in request.headers.get("Accept", "")


def _is_script_of_page() -> bool:
    return request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"


def _answer(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(f"{text}\n", status, headers, mimetype="text/plain")
