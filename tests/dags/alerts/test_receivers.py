"""Alerts sent to local HTTP receivers."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest
from receiver import Receiver, listening
from trainyard.alerts import receivers
from trainyard.alerts.alert import Alert

ALERT = Alert("error", "it broke", "badly <&>", {"dag_id": "d"}, {"run": "http://airflow/run"}, key="d/r")


def name_all(secret: Path, url: str) -> None:
    # A Secret's values often end in a newline.
    (secret / "slack-webhook-url").write_text(f"{url}/services/T0KEN\n")
    (secret / "pagerduty-routing-key").write_text("R0UTE\n")
    (secret / "pagerduty-url").write_text(f"{url}/enqueue\n")
    (secret / "webhook-url").write_text(f"{url}/hook?key=S3CRET\n")


def by_path(receiver: Receiver) -> dict[str, dict[str, Any]]:
    return dict(zip(receiver.paths, receiver.got, strict=True))


def test_every_receiver_gets_its_own_format(secret: Path) -> None:
    with listening() as receiver:
        name_all(secret, receiver.url)
        assert receivers.send(ALERT) == {"slack": "sent", "pagerduty": "sent", "webhook": "sent"}
    got = by_path(receiver)
    slack, pagerduty = got["/services/T0KEN"], got["/enqueue"]
    assert slack["text"].startswith("[error] it broke")
    assert [block["type"] for block in slack["blocks"]] == ["header", "section", "section"]
    assert slack["blocks"][1]["text"]["text"] == "```badly &lt;&amp;&gt;```"
    assert slack["blocks"][2]["text"]["text"] == "<http://airflow/run|run>"
    assert (pagerduty["routing_key"], pagerduty["event_action"]) == ("R0UTE", "trigger")
    assert pagerduty["dedup_key"] == "d/r"
    assert pagerduty["payload"].keys() >= {"summary", "source", "severity"}
    assert got["/hook?key=S3CRET"] == {
        "severity": "error",
        "title": "it broke",
        "text": "badly <&>",
        "key": "d/r",
        "details": {"dag_id": "d"},
        "links": {"run": "http://airflow/run"},
    }


def test_warnings_wake_nobody_up(secret: Path) -> None:
    with listening() as receiver:
        name_all(secret, receiver.url)
        assert set(receivers.send(Alert("warning", "slow"))) == {"slack", "webhook"}
    assert by_path(receiver)["/hook?key=S3CRET"]["key"] == "slow"


def test_without_a_secret_nothing_happens(secret: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret.rmdir()
    with caplog.at_level(logging.INFO):
        assert receivers.send(ALERT) == {}
    assert "names no receiver" in caplog.text


def test_a_receiver_that_stumbles_is_tried_again(secret: Path) -> None:
    with listening(503, 500, 200) as receiver:
        (secret / "webhook-url").write_text(receiver.url)
        assert receivers.send(ALERT) == {"webhook": "sent"}
    assert len(receiver.got) == 3


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (429, 3), (400, 1), (404, 1)])
def test_one_that_refuses_is_given_up(secret: Path, status: int, tries: int) -> None:
    with listening(status) as receiver:
        (secret / "webhook-url").write_text(receiver.url)
        assert receivers.send(ALERT) == {"webhook": f"HTTP {status}"}
    assert len(receiver.got) == tries


def test_a_redirect_is_not_followed(secret: Path) -> None:
    with listening() as elsewhere, listening(302, location=f"{elsewhere.url}/x") as receiver:
        (secret / "webhook-url").write_text(receiver.url)
        assert "final URL" in receivers.send(ALERT)["webhook"]
    assert len(receiver.got) == 1 and not elsewhere.got


@pytest.mark.parametrize(
    "url",
    [
        "hooks.example.com/S3CRET",
        "file:///etc/S3CRET",
        "http://[S3CRET",
        "http://127.0.0.1:port/S3CRET",
        "http://127.0.0.1:1/a b/S3CRET",
        "http://127.0.0.1:1/ä/S3CRET",
        "http://\x00/S3CRET",
    ],
)
def test_a_malformed_address_is_said_without_showing_it(
    secret: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    (secret / "webhook-url").write_text(url)
    with caplog.at_level(logging.DEBUG):
        (result,) = receivers.send(ALERT).values()
    assert result != "sent"
    assert "S3CRET" not in caplog.text + result


def test_what_is_down_or_hangs_costs_a_bounded_time_and_keeps_up_nobody_else(
    secret: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(receivers, "POST_SECONDS", 0.4)
    with listening("hang") as hanging, listening() as well:
        name_all(secret, well.url)
        (secret / "slack-webhook-url").write_text("http://127.0.0.1:9/services/T0KEN")  # nobody listens
        (secret / "pagerduty-url").write_text(f"{hanging.url}/enqueue")
        started = time.monotonic()
        with caplog.at_level(logging.DEBUG):
            results = receivers.send(ALERT)
        assert time.monotonic() - started < 7
    assert results["webhook"] == "sent"
    assert results["slack"] == "Connection refused"
    assert "no response" in results["pagerduty"]
    assert not [word for word in ("T0KEN", "R0UTE", "S3CRET") if word in caplog.text]


def test_not_even_a_lookup_that_hangs_holds_up_the_caller(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receivers, "TOTAL_SECONDS", 0.1)
    with listening("hang") as hanging:
        (secret / "webhook-url").write_text(hanging.url)
        started = time.monotonic()
        assert "no response" in receivers.send(ALERT)["webhook"]
        assert time.monotonic() - started < 5


def test_messages_fit_their_receivers() -> None:
    huge = Alert("error", "t" * 9999, "&" * 99_999, key="k" * 999)
    slack, pagerduty = receivers.slack_body(huge), receivers.pagerduty_body(huge, "key")
    assert len(slack["blocks"][0]["text"]["text"]) <= 150
    assert len(slack["blocks"][1]["text"]["text"]) <= 3000
    assert len(pagerduty["payload"]["summary"]) <= 1024 and len(pagerduty["dedup_key"]) <= 255
