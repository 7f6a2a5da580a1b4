"""An OpenID Connect provider by authlib: asked no more often than needed, with a cookie for each login.

Pages of MLflow that FastAPI serves are authenticated in its event loop, where nothing else goes on meanwhile.
So what the provider told is kept, and one that does not answer is left alone for a while.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from typing import Any

from authlib.integrations.flask_client import FlaskIntegration, FlaskOAuth2App, OAuth
from flask import Flask, Response, after_this_request, current_app, redirect, request
from itsdangerous import BadSignature, URLSafeTimedSerializer
from requests import RequestException

ANSWER_SECONDS = 10  # how long the provider may take to answer
PAUSE_SECONDS = 10  # how long it is not asked the same again
KEYS_SECONDS = 3600  # how long its keys are believed
LOGIN_SECONDS = 1800  # how long a person may take to log in at the provider
# By a key of the provider's that others cannot have.
SIGNED = {f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)} | {"EdDSA", "Ed25519"}


class LoginCookies(FlaskIntegration):
    """Keeps what belongs to a login in a cookie of its own: two tabs may log in side by side."""

    def set_state_data(self, session: Any, state: str, data: Mapping[str, Any]) -> None:
        """Let the browser keep what belongs to the login `state`."""
        kept = {key: data[key] for key in ("nonce", "code_verifier", "redirect_uri", "page")}
        value = _signer().dumps(kept)

        @after_this_request
        def with_cookie(response: Response) -> Response:
            secure = current_app.config["SESSION_COOKIE_SECURE"]
            path = request.path.rpartition("/")[0]
            response.set_cookie(
                _cookie(state), value, LOGIN_SECONDS, path=path, secure=secure, httponly=True, samesite="Lax"
            )
            return response

    def get_state_data(self, session: Any, state: str | None) -> dict[str, Any] | None:
        """Return what it kept, or None if there is none, or it is too old or not of this MLflow."""
        try:
            return _signer().loads(request.cookies.get(_cookie(state), ""), max_age=LOGIN_SECONDS)
        except BadSignature:
            return None

    def clear_state_data(self, session: Any, state: str | None) -> None:
        """Leave the cookie: MLflow sends one with an answer, here the session's. A code counts once."""


class IdentityProvider(FlaskOAuth2App):
    """What authlib knows of the provider."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = threading.RLock()
        self._asked: dict[str, float] = {}

    @classmethod
    def of(
        cls, app: Flask, issuer: str, client_id: str, client_secret: str, scope: str, ca: str
    ) -> IdentityProvider:
        """Return the provider; nothing is asked yet."""
        registry = OAuth(app)
        registry.framework_integration_cls = LoginCookies
        return registry.register(
            "provider",
            client_cls=cls,
            server_metadata_url=f"{issuer.rstrip('/')}/.well-known/openid-configuration",
            client_id=client_id,
            client_secret=client_secret,
            client_kwargs={
                "scope": scope,
                "code_challenge_method": "S256",
                "default_timeout": ANSWER_SECONDS,
                **({"verify": ca} if ca else {}),
            },
        )

    def load_server_metadata(self) -> dict[str, Any]:
        """Return what the provider says of itself; RequestException if it does not answer."""
        with self._lock:
            if "_loaded_at" not in self.server_metadata:
                self._ask("metadata")
            metadata = super().load_server_metadata()
        # A provider may list `none` as well, and authlib would take a token that nobody has signed.
        listed = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
        metadata["id_token_signing_alg_values_supported"] = [name for name in listed if name in SIGNED]
        return metadata

    def fetch_jwk_set(self, force: bool = False) -> dict[str, Any]:
        """Return its keys, with `force` read anew if that is due; RequestException if it does not answer."""
        with self._lock:
            if self._seconds_since("keys") > KEYS_SECONDS:
                self.server_metadata.pop("jwks", None)
            known = self.server_metadata.get("jwks")
            if known and (not force or self._seconds_since("keys") < PAUSE_SECONDS):
                return known
            self._ask("keys")
            return super().fetch_jwk_set(force=True)

    def go(self, callback: str, page: str) -> Response:
        """Lead a browser to the provider, which sends it to `callback`; it wants to see `page`."""
        login = self.create_authorization_url(callback)
        self.save_authorize_data(redirect_uri=callback, page=page, **login)
        return redirect(login["url"])

    def page(self) -> str | None:
        """Return which page the browser that comes back wanted to see, or None if no login of it is known."""
        login = self.framework.get_state_data(None, request.args.get("state"))
        return login and login["page"]

    def _ask(self, what: str) -> None:
        if self._seconds_since(what) < PAUSE_SECONDS:
            raise RequestException("it did not a moment ago")
        self._asked[what] = time.monotonic()

    def _seconds_since(self, what: str) -> float:
        return time.monotonic() - self._asked.get(what, float("-inf"))


def _signer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(current_app.secret_key, salt="login")


def _cookie(state: str | None) -> str:
    return f"mlflow-login-{hashlib.sha256((state or '').encode()).hexdigest()[:12]}"
