"""What the client of MLflow does when its password is rotated; the server is a real one."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from trainyard_cli.errors import CliError
from trainyard_cli.mlflow_api import Mlflow


class Server(HTTPServer):
    """Answers to one password only."""

    password = "new"
    tried: list[str]


class Answers(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        login = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        self.server.tried.append(login)
        self.send_response(200 if login == f"admin:{self.server.password}" else 401)
        self.end_headers()
        self.wfile.write(b'{"found": true}')

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Answers) as server:
        server.tried = []
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def client(server: Server, *passwords: str) -> Mlflow:
    """A client whose Secret has these passwords, one after the other."""
    left = list(passwords)
    return Mlflow(f"http://127.0.0.1:{server.server_port}", lambda: ("admin", left.pop(0)))


def test_a_rotated_password_is_read_anew(server: Server) -> None:
    mlflow = client(server, "old", "new")
    assert mlflow.get("runs/get", {}) == {"found": True}
    assert server.tried == ["admin:old", "admin:new"]
    assert mlflow.auth == ("admin", "new")


def test_a_password_that_stays_wrong_is_refused_at_once(server: Server) -> None:
    with pytest.raises(CliError, match="MLflow refused runs/get: HTTP 401"):
        client(server, "old", "old").get("runs/get", {})
    assert server.tried == ["admin:old"]
