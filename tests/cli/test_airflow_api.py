"""What the client of Airflow makes of the answers of a server, which is a real one on a socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from trainyard_cli import airflow_api
from trainyard_cli.airflow_api import Airflow
from trainyard_cli.errors import CliError


class Server(ThreadingHTTPServer):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: list[str] = []


class Answers(BaseHTTPRequestHandler):
    """Answers /500/200 with status 500 at first, then with 200; every login gets a token."""

    server: Server

    def do_GET(self) -> None:
        words = self.path.strip("/").split("/")
        self._answer(int(words[min(self.server.asked.count(self.path), len(words) - 1)]))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/auth/token":
            self._answer(201)
        else:
            self.do_GET()

    def _answer(self, status: int) -> None:
        self.server.asked.append(self.path)
        body = json.dumps({"access_token": "t", "detail": f"said {status}"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        threading.Thread(target=found.serve_forever).start()
        yield found
        found.shutdown()


@pytest.fixture
def airflow(server: Server, monkeypatch: pytest.MonkeyPatch) -> Airflow:
    monkeypatch.setattr(airflow_api, "ERROR_SECONDS", 3.0)
    return Airflow(f"http://127.0.0.1:{server.server_port}", "admin", "password")


@pytest.mark.parametrize("error", [500, 502, 503, 504])
def test_an_error_that_goes_by_itself_is_outlasted(airflow: Airflow, error: int) -> None:
    """A database that restarts is a 500 of Airflow's, and it ended `./scripts/run`, which follows a run."""
    assert airflow.get(f"/{error}/200")["detail"] == "said 200"


def test_an_error_that_stays_is_told(airflow: Airflow, server: Server) -> None:
    with pytest.raises(CliError, match="said 500"):
        airflow.get("/500")
    assert server.asked.count("/500") > 1


def test_what_changes_something_is_not_sent_again_after_an_error(airflow: Airflow, server: Server) -> None:
    with pytest.raises(CliError, match="said 500"):
        airflow.request("POST", "/500/200")
    assert server.asked.count("/500/200") == 1
