"""Control tasks that say what came of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from airflow.sdk import Context

from trainyard.alerts.summary import summarize
from trainyard.triggerer.control import control_task

log = logging.getLogger(__name__)


@control_task()
async def notify(
    context: Context,
    promotion: Mapping[str, Any] | None,
    evaluation: Mapping[str, Any],
    otherwise: Mapping[str, Any] | None = None,
) -> str:
    """Say what came of the run; `otherwise` is the promotion of the run's other branch, if it has two."""
    dag_run = context["dag_run"]
    text = summarize(
        dag_id=dag_run.dag_id,
        run_id=dag_run.run_id,
        promotion=promotion or otherwise or {},
        metrics=evaluation,
    )
    return _logged(text)


@control_task()
async def report(_: Context, text: str) -> str:
    """Log `text`, a template, and return it: what the last task returns is the run's summary."""
    return _logged(text)


def _logged(text: str) -> str:
    """Log `text` and return it: `on_success` sends the result of the last task."""
    log.info("%s", text)
    return text
