"""The end of a run, told to a log and to a real local receiver."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from trainyard.notify import WEBHOOK_VARIABLE, notify, summary

PROMOTION = {"model": "digits", "version": "3", "alias": "champion", "reason": "better"}


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict]]]:
    got: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()


def test_the_summary_says_what_came_of_the_run() -> None:
    text = summary(dag_id="d", run_id="r", promotion=PROMOTION, metrics={"f1_macro": 0.951, "rows": 9})
    assert text.splitlines() == [
        "digits v3 is now champion: better",
        "metrics: f1_macro 0.9510",
        "run: d / r",
    ]


def test_a_webhook_gets_it_if_there_is_one(
    receiver: tuple[str, list[dict]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, got = receiver
    notify("quiet", {})
    monkeypatch.setenv(WEBHOOK_VARIABLE, url)
    notify("hello", {"promotion": PROMOTION})
    assert got == [{"text": "hello", "promotion": PROMOTION}]


def test_a_receiver_that_is_down_hurts_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(WEBHOOK_VARIABLE, "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING):
        notify("hello", {})
    assert "did not take the message" in caplog.text
