"""The receivers of alerts: Slack, PagerDuty and a webhook, each configured by a file of a mounted Secret.

A receiver that fails or hangs costs a bounded time and a line in the log, but never fails the run. URLs and
keys are secrets: of a URL, at most the host may be logged.
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
# Where the chart mounts the Secret `trainyard-alerts`. The kubelet updates the files when the Secret changes.
DIRECTORY = Path("/opt/airflow/alerts")
PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"
POST_SECONDS = 2.0  # for one try
PAUSES = (0.3, 0.9)  # before the second and the third try
TOTAL_SECONDS = 8.0  # for all receivers, including DNS lookups that hang
# Maximum lengths, a little below the receivers' limits.
SLACK_HEADER, SLACK_SECTION, PAGERDUTY_SUMMARY = 150, 2900, 1000


@dataclass(frozen=True)
class Post:
    """A message to send: `body` as JSON to `url`."""

    receiver: str
    url: str
    body: Mapping[str, Any]


class DeliveryError(Exception):
    """A message could not be delivered; the text holds no secret."""

    def __init__(self, reason: str, *, retry: bool) -> None:
        super().__init__(reason)
        self.retry = retry  # whether another try may succeed


def send(alert: Alert) -> dict[str, str]:
    """Send `alert` to the receivers in the Secret `trainyard-alerts`; return the result by receiver.

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
        log.info("the alert was not sent: the Secret trainyard-alerts names no receiver")
    return results


async def asend(alert: Alert) -> dict[str, str]:
    """`send` for triggers: does not block the event loop."""
    return await asyncio.to_thread(send, alert)


def posts(alert: Alert, directory: Path) -> list[Post]:
    """The messages for `alert` to the receivers that the Secret's files in `directory` name."""
    messages = []
    if url := _setting(directory, "slack-webhook-url"):
        messages.append(Post("slack", url, slack_body(alert)))
    # PagerDuty pages people: it gets errors only.
    if alert.severity == "error" and (key := _setting(directory, "pagerduty-routing-key")):
        url = _setting(directory, "pagerduty-url") or PAGERDUTY_URL
        messages.append(Post("pagerduty", url, pagerduty_body(alert, key)))
    if url := _setting(directory, "webhook-url"):
        messages.append(Post("webhook", url, webhook_body(alert)))
    return messages


def deliver(messages: Sequence[Post]) -> dict[str, str]:
    """Send all messages in parallel; return for each receiver `sent` or the error."""
    results: dict[str, str] = {}
    # Daemon threads rather than a pool: a DNS lookup that hangs must not delay the exit of the process.
    threads = [
        threading.Thread(
            target=_deliver_with_retries, args=(post, results), name=f"alert-{post.receiver}", daemon=True
        )
        for post in messages
    ]
    until = time.monotonic() + TOTAL_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    timed_out = f"no response within {TOTAL_SECONDS:.0f} s"
    return {post.receiver: results.get(post.receiver, timed_out) for post in messages}


def host(url: str) -> str:
    """The host of `url`, the only part that may be logged; "?" if it is no valid http(s) URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is invalid
    except ValueError:
        return "?"
    return parts.hostname if parts.scheme in ("http", "https") and parts.hostname else "?"


def slack_body(alert: Alert) -> dict[str, Any]:
    """The message for a Slack incoming webhook: blocks, and plain text for notifications."""

    def section(text: str) -> dict[str, Any]:
        return {"type": "section", "text": {"type": "mrkdwn", "text": text}}

    title = f"[{alert.severity}] {alert.title}"
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(title, SLACK_HEADER)}}
    ]
    if alert.text:
        # Escaping makes the text longer, and an escape sequence must not be cut.
        blocks.append(section(f"```{_cut(alert.text, SLACK_SECTION, _slack_escaped)}```"))
    if alert.links:
        links = [f"<{url}|{_slack_escaped(name)}>" for name, url in alert.links.items() if len(url) < 900]
        blocks.append(section(" · ".join(links[:3])))
    return {"text": _slack_escaped(_cut(f"{title}\n{alert.text}", SLACK_SECTION)), "blocks": blocks}


def pagerduty_body(alert: Alert, routing_key: str) -> dict[str, Any]:
    """An event for PagerDuty's Events API v2: all alerts of one run are one incident."""
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
    """All fields of `Alert` by their names."""
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


def _deliver_with_retries(post: Post, results: dict[str, str]) -> None:
    for pause in (*PAUSES, None):
        try:
            _post(post)
            results[post.receiver] = "sent"
            return
        except DeliveryError as error:
            results[post.receiver] = str(error)
            if not error.retry or pause is None:
                return
        except Exception as error:  # its message may contain the URL
            results[post.receiver] = type(error).__name__
            return
        time.sleep(pause)


def _post(post: Post) -> None:
    if host(post.url) == "?":
        raise DeliveryError("its URL is no valid http(s) URL; correct it in the Secret", retry=False)
    body = json.dumps(post.body, default=str).encode()
    try:
        request = urllib.request.Request(post.url, body, {"Content-Type": "application/json"})
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=POST_SECONDS):
            return
    except urllib.error.HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            raise DeliveryError(
                f"redirects ({error.code}) are not followed; set its final URL in the Secret", retry=False
            ) from None
        raise DeliveryError(f"HTTP {error.code}", retry=error.code >= 500 or error.code == 429) from None
    except urllib.error.URLError as error:
        raise DeliveryError(_error_text(error.reason), retry=True) from None
    except OSError as error:
        raise DeliveryError(_error_text(error), retry=True) from None
    except (http.client.InvalidURL, ValueError):
        raise DeliveryError("its URL is malformed; correct it in the Secret", retry=False) from None
    except http.client.HTTPException as error:
        raise DeliveryError(type(error).__name__, retry=True) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: an alert must not reach another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _error_text(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"no response within {POST_SECONDS:.0f} s"
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__


def _cut(text: str, limit: int, escape: Callable[[str], str] = str) -> str:
    """The beginning of `text`, escaped, at most `limit` characters."""
    while len(escape(text)) > limit:
        text = text[: min(int(len(text) * 0.9), limit) - 1] + "…"
    return escape(text)


def _slack_escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
