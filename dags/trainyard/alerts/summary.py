"""What a run says at its end, in its last task's log. Alerts of what failed are `trainyard.alerts.alert`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)


def summary(*, dag_id: str, run_id: str, promotion: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """A run's result in a few lines."""
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float))
    return (
        f"{promotion['model']} v{promotion['version']} is now {promotion['alias']}: {promotion['reason']}\n"
        f"metrics: {numbers or 'none'}\n"
        f"run: {dag_id} / {run_id}"
    )


def notify(text: str) -> str:
    """Log `text` and return it: as the last task's result it is what `alerts.on_success` tells."""
    log.info("%s", text)
    return text
