"""Who hears alerts: Slack, PagerDuty and a webhook of your own, each one file of a mounted Secret.

A receiver that is down, hangs or refuses costs a bounded time and a line in the log, never the run. Addresses
and keys are secrets: nothing here logs more of them than the host.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainyard.alerts.alert import Alert

log = logging.getLogger(__name__)
# Where the chart mounts the Secret `trainyard-alerts`; a mounted Secret follows its changes by itself.
DIRECTORY = Path("/opt/airflow/alerts")
PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"
POST_SECONDS = 2.0  # for one try
PAUSES = (0.3, 0.9)  # before the second and the third try
TOTAL_SECONDS = 8.0  # for everything, name lookups that hang included
# What the receivers take at most, with room to spare: Slack's blocks, PagerDuty's summary.
SLACK_HEADER, SLACK_SECTION, PAGERDUTY_SUMMARY = 150, 2900, 1000


@dataclass(frozen=True)
class Post:
    """One message on its way: `body` as JSON to `url`."""

    receiver: str
    url: str
    body: Mapping[str, Any]


class DeliveryError(Exception):
    """A receiver did not take the message; the text holds no secret."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again  # another try may go better


def send(alert: Alert) -> dict[str, str]:
    """Tell `alert` to the receivers in the Secret `trainyard-alerts`; return what became of it, by receiver.

    Never raises, and takes at most a few seconds. Only the triggerer and the dag-processor have the Secret.
    """
    try:
        alert = alert if alert.key else Alert(**{**vars(alert), "key": alert.title})
        results = deliver(posts(alert, DIRECTORY))
    except Exception:
        log.exception("the alert %r could not be sent", alert.title)
        return {}
    log.info("alert: [%s] %s", alert.severity, alert.title)
    for receiver, result in results.items():
        log.log(logging.INFO if result == "sent" else logging.WARNING, "alert to %s: %s", receiver, result)
    if not results:
        log.info("nobody hears of it: the Secret trainyard-alerts names no receiver")
    return results


async def asend(alert: Alert) -> dict[str, str]:
    """`send` for triggers, whose event loop it does not hold up."""
    return await asyncio.to_thread(send, alert)


def posts(alert: Alert, directory: Path) -> list[Post]:
    """What to send for `alert`, to whom the Secret's files in `directory` name."""
    found = []
    if url := _setting(directory, "slack-webhook-url"):
        found.append(Post("slack", url, slack_body(alert)))
    # PagerDuty wakes people up: it hears of errors only.
    if alert.severity == "error" and (key := _setting(directory, "pagerduty-routing-key")):
        url = _setting(directory, "pagerduty-url") or PAGERDUTY_URL
        found.append(Post("pagerduty", url, pagerduty_body(alert, key)))
    if url := _setting(directory, "webhook-url"):
        found.append(Post("webhook", url, webhook_body(alert)))
    return found


def deliver(messages: Sequence[Post]) -> dict[str, str]:
    """Send all at once; return what became of each, by receiver: `sent`, or why not."""
    results: dict[str, str] = {}
    # Daemons, and no pool: neither a lookup that hangs nor the interpreter's end may wait for them.
    threads = [
        threading.Thread(target=_deliver, args=(post, results), name=f"alert-{post.receiver}", daemon=True)
        for post in messages
    ]
    until = time.monotonic() + TOTAL_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    late = f"no answer within {TOTAL_SECONDS:.0f} s"
    return {post.receiver: results.get(post.receiver, late) for post in messages}


def host(url: str) -> str:
    """The host of `url`, which is all of it that may be logged."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises on nonsense
    except ValueError:
        return "?"
    return parts.hostname if parts.scheme in ("http", "https") and parts.hostname else "?"


def slack_body(alert: Alert) -> dict[str, Any]:
    """An incoming webhook's message: blocks, and plain text for what cannot show those."""

    def section(text: str) -> dict[str, Any]:
        return {"type": "section", "text": {"type": "mrkdwn", "text": text}}

    title = f"[{alert.severity}] {alert.title}"
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(title, SLACK_HEADER)}}
    ]
    if alert.text:
        # Escaping makes it longer, and nothing may be cut in the middle of an escape.
        blocks.append(section(f"```{_cut(alert.text, SLACK_SECTION, _slack_escaped)}```"))
    if alert.links:
        links = [f"<{url}|{_slack_escaped(name)}>" for name, url in alert.links.items() if len(url) < 900]
        blocks.append(section(" · ".join(links[:3])))
    return {"text": _slack_escaped(_cut(f"{title}\n{alert.text}", SLACK_SECTION)), "blocks": blocks}


def pagerduty_body(alert: Alert, routing_key: str) -> dict[str, Any]:
    """An event of PagerDuty's Events API v2: all alerts of one run are one incident."""
    return {
        "routing_key": routing_key,
        "event_action": "trigger",
        "dedup_key": alert.key[:255],
        "client": "Trainyard",
        "payload": {
            "summary": _cut(alert.title, PAGERDUTY_SUMMARY),
            "source": "trainyard",
            "severity": alert.severity,
            "custom_details": {**alert.details, "text": alert.text},
        },
        "links": [{"href": url, "text": name} for name, url in alert.links.items()],
    }


def webhook_body(alert: Alert) -> dict[str, Any]:
    """Everything, by the names of `Alert`."""
    return {
        "severity": alert.severity,
        "title": alert.title,
        "text": alert.text,
        "key": alert.key,
        "details": dict(alert.details),
        "links": dict(alert.links),
    }


def _setting(directory: Path, name: str) -> str:
    try:
        return (directory / name).read_text().strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        log.warning("alerts: %s cannot be read: %s", name, type(error).__name__)
        return ""


def _deliver(post: Post, results: dict[str, str]) -> None:
    for pause in (*PAUSES, None):
        try:
            _send(post)
            results[post.receiver] = "sent"
            return
        except DeliveryError as error:
            results[post.receiver] = str(error)
            if not error.again or pause is None:
                return
        except Exception as error:  # the message of an unknown one may hold the address
            results[post.receiver] = type(error).__name__
            return
        time.sleep(pause)


def _send(post: Post) -> None:
    if host(post.url) == "?":
        raise DeliveryError("its address is no http(s) URL; correct it in the Secret", again=False)
    body = json.dumps(post.body, default=str).encode()
    try:
        request = urllib.request.Request(post.url, body, {"Content-Type": "application/json"})
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=POST_SECONDS):
            return
    except urllib.error.HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            raise DeliveryError(
                f"redirects ({error.code}), which alerts do not follow; give its final address", again=False
            ) from None
        raise DeliveryError(f"answered {error.code}", again=error.code >= 500 or error.code == 429) from None
    except urllib.error.URLError as error:
        raise DeliveryError(_why(error.reason), again=True) from None
    except OSError as error:
        raise DeliveryError(_why(error), again=True) from None
    except (http.client.InvalidURL, ValueError):
        raise DeliveryError("its address is malformed; correct it in the Secret", again=False) from None
    except http.client.HTTPException as error:
        raise DeliveryError(type(error).__name__, again=True) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What was meant for one receiver goes to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _why(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {POST_SECONDS:.0f} s"
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__


def _cut(text: str, limit: int, escape: Callable[[str], str] = str) -> str:
    """`text`, escaped and no longer than `limit`; its beginning stays."""
    while len(escape(text)) > limit:
        text = text[: min(int(len(text) * 0.9), limit) - 1] + "…"
    return escape(text)


def _slack_escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
