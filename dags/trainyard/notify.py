"""What a run tells people at its end: a summary in the task log, and JSON to a webhook if there is one."""

from __future__ import annotations

import json
import logging
import os
import urllib.request
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)
WEBHOOK_VARIABLE = "TRAINYARD_NOTIFY_WEBHOOK"
WEBHOOK_SECONDS = 10


def summary(*, dag_id: str, run_id: str, promotion: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """A run's result in a few lines."""
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float))
    return (
        f"{promotion['model']} v{promotion['version']} is now {promotion['alias']}: {promotion['reason']}\n"
        f"metrics: {numbers or 'none'}\n"
        f"run: {dag_id} / {run_id}"
    )


def notify(text: str, details: Mapping[str, Any]) -> None:
    """Log `text`, and post it with `details` to the URL in TRAINYARD_NOTIFY_WEBHOOK, if that is set.

    A receiver that is down is logged and never fails the run.
    """
    log.info("%s", text)
    url = os.environ.get(WEBHOOK_VARIABLE)
    if not url:
        return
    request = urllib.request.Request(
        url, json.dumps({"text": text, **details}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS):
            log.info("sent to the webhook")
    except (OSError, ValueError) as error:
        log.warning("the webhook did not take the message: %s", error)
