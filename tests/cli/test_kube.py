"""What the client of Kubernetes makes of the answers of a server, which is a real one on a socket."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from trainyard_cli.errors import CliError
from trainyard_cli.kube import FORBIDDEN_CURE, Kube
from trainyard_cli.kubectl_proxy import ProxiedKube

CURE = "look at the cluster"


class Server(socketserver.ThreadingUnixStreamServer):
    """Remembers the paths that it was asked for."""

    def __init__(self, socket: Path) -> None:
        super().__init__(str(socket), Answers)
        self.asked: list[str] = []


class Answers(BaseHTTPRequestHandler):
    """Answers /503/200 with status 503 at first, then with 200."""

    server: Server

    def do_GET(self) -> None:
        words = self.path.strip("/").split("/")
        word = words[min(self.server.asked.count(self.path), len(words) - 1)]
        self.server.asked.append(self.path)
        body = json.dumps({"kind": "Status", "message": f"said {word}: HTTP 403"}).encode()
        self.send_response(int(word))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "socket"


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Kube]:
    socket = tmp_path / "api.sock"
    with Server(socket) as server:
        threading.Thread(target=server.serve_forever).start()
        yield ProxiedKube(socket, "test", CURE)
        server.shutdown()


@pytest.mark.parametrize(("status", "cure"), [(403, FORBIDDEN_CURE), (400, CURE), (404, CURE)])
def test_what_is_refused_has_its_cause_and_a_cure(kube: Kube, status: int, cure: str) -> None:
    with pytest.raises(CliError, match=f"HTTP {status}: said {status}") as refused:
        kube.get(f"/{status}")
    assert refused.value.cure == cure


def test_what_is_missing_is_none(kube: Kube) -> None:
    assert kube.find("/404") is None
    assert kube.items("/404") == []


def test_a_restart_of_the_api_server_is_outlasted(kube: Kube) -> None:
    assert kube.get("/503/200")["message"].startswith("said 200")
