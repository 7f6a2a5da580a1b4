"""MLflow's server as its pod runs it, with the chart's scripts, and an OpenID Connect provider beside it.

Runs in MLflow's image, and wherever the packages of images/mlflow/requirements-test.txt are installed.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from oidc_provider_mock import run_server_in_thread

SCRIPTS = Path(__file__).parents[2] / "charts/trainyard/charts/mlflow/files/server"
sys.path.insert(0, str(SCRIPTS))

PASSWORD = "a-password-of-the-tests"
ACCOUNTS = {"admin": "admin", "trainer": "trainer", "promoter": "promoter", "serving": "viewer"}
ROLES = {"readers": "viewer", "ml": "editor", "leads": "promoter", "platform": "admin"}
CLIENT = "mlflow"


@dataclass(frozen=True)
class Server:
    """A running server, and how to speak with it."""

    url: str

    def as_account(self, name: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, auth=(name, PASSWORD))

    def browser(self) -> httpx.Client:
        """A browser that shows pages and follows redirects."""
        return httpx.Client(base_url=self.url, headers={"Accept": "text/html"}, follow_redirects=True)


@dataclass(frozen=True)
class Provider:
    """The provider, which lets anybody be anybody."""

    issuer: str

    def knows(self, subject: str, **claims: Any) -> str:
        """Give a person these claims, and return the subject that it logs in with."""
        answer = httpx.put(f"{self.issuer}/users/{subject}", json=claims)
        answer.raise_for_status()
        return subject

    def log_in(self, browser: httpx.Client, subject: str, page: str = "/") -> httpx.Response:
        """Open a page of MLflow, log in where that leads to, and return the page that is shown at last."""
        form = browser.get(page)
        assert str(form.url).startswith(self.issuer), form.text
        return browser.post(str(form.url), data={"sub": subject})

    def token(self, subject: str, client: str = CLIENT) -> str:
        """Return an ID token, as a program of the person gets it."""
        back = {"redirect_uri": "http://localhost/back", "client_id": client}
        asked = {"response_type": "code", "scope": "openid email profile", **back}
        answer = httpx.post(f"{self.issuer}/oauth2/authorize", params=asked, data={"sub": subject})
        code = re.search(r"[?&]code=([^&]+)", answer.headers["Location"])
        assert code
        grant = {"grant_type": "authorization_code", "code": code[1], "client_secret": "secret", **back}
        return httpx.post(f"{self.issuer}/oauth2/token", data=grant).json()["id_token"]


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    with run_server_in_thread() as server:
        yield Provider(f"http://localhost:{server.server_port}")


@pytest.fixture(scope="session")
def settings(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the chart writes into SINGLE_SIGN_ON."""
    secret = tmp_path_factory.mktemp("single-sign-on") / "client-secret"
    secret.write_text("secret\n")
    return {
        "issuer": provider.issuer,
        "client_id": CLIENT,
        "client_secret_file": str(secret),
        "scopes": ["openid", "email", "profile"],
        "username_claim": "email",
        "groups_claim": "groups",
        "require_verified_email": True,
        "roles": ROLES,
        "session_hours": 8,
        "pages": [],
    }


@pytest.fixture(scope="session")
def server(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server with single sign-on, after its init container."""
    directory = tmp_path_factory.mktemp("mlflow")
    prepare(directory, ACCOUNTS)
    with running(directory, SINGLE_SIGN_ON=json.dumps(settings)) as found:
        yield found


def prepare(directory: Path, accounts: Mapping[str, str]) -> str:
    """Do what the init container does, and return what it prints."""
    passwords = directory / "accounts"
    passwords.mkdir(exist_ok=True)
    for name in accounts:
        (passwords / name).write_text(PASSWORD)
    environment = {
        **_environment(directory),
        "ACCOUNTS": json.dumps(accounts),
        "ACCOUNTS_DIRECTORY": str(passwords),
    }
    command = [sys.executable, str(SCRIPTS / "prepare_database.py")]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def running(directory: Path, **environment: str) -> Iterator[Server]:
    """Run the server on what was prepared."""
    port = _free_port()
    command = [
        "mlflow",
        "server",
        "--host=127.0.0.1",
        f"--port={port}",
        "--workers=1",
        "--serve-artifacts",
        "--app-name=basic-auth",
    ]
    command += [
        f"--artifacts-destination={directory}/artifacts",
        f"--allowed-hosts=localhost:{port},127.0.0.1:{port}",
    ]
    process = subprocess.Popen(command, env={**_environment(directory), **environment}, cwd=directory)
    try:
        found = Server(f"http://localhost:{port}")
        _wait_until(lambda: httpx.get(f"{found.url}/health").is_success, process)
        yield found
    finally:
        process.terminate()
        process.wait(30)


def _environment(directory: Path) -> dict[str, str]:
    return {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{directory}/mlflow.db",
        "MLFLOW_AUTH_CONFIG_PATH": str(directory / "basic_auth.ini"),
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-the-tests",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONPATH": str(SCRIPTS),
    }


def _wait_until(answers: Callable[[], bool], process: subprocess.Popen) -> None:
    for _ in range(600):
        assert process.poll() is None, "MLflow has ended"
        try:
            if answers():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError("MLflow does not answer")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
