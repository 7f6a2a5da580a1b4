"""Links from a training task to what it waits for and to its MLflow run.

No worker runs beside a training task, so the trigger pushes the XComs from which Airflow's pages take the
links. A worker that only fails the task asks `get_link` again: it must answer with what is there already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp
from airflow.sdk import BaseOperatorLink

from trainyard.airflow_compat import read_own_xcom
from trainyard.naming import TaskIdentity
from trainyard.platform import Training
from trainyard.urls import task_url

MLFLOW_SECONDS = 5
RUN_KEY_TAG = "trainyard.run_key"


class WhyPendingLink(BaseOperatorLink):
    """To the XComs of the task instance: `pending` says why it waits, or has waited, and how long."""

    name = "Why pending"
    xcom_key = "_link_why_pending"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The page's address."""
        return f"{task_url(ti_key.dag_id, ti_key.run_id, ti_key.task_id, ti_key.map_index)}/xcom"


class MLflowRunLink(BaseOperatorLink):
    """To the run in MLflow's pages, as far as it is known: see `training.trackingUiUrl` of the chart."""

    name = "MLflow run"
    xcom_key = "_link_mlflow_run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """What the trigger found."""
        return str(read_own_xcom(ti_key, self.xcom_key) or "")


def why_pending(task: TaskIdentity) -> dict[str, str]:
    """The XCom of the link `Why pending`."""
    link = WhyPendingLink()
    return {link.xcom_key: link.get_link(None, ti_key=task)}


async def mlflow_run(training: Training, experiment: str, run_key: str) -> dict[str, str]:
    """The XCom of the link to the run with that key; {} while there is none, or no address for people."""
    found = await _ask(training, "GET", "experiments/get-by-name", {"experiment_name": experiment})
    if not found:
        return {}
    wanted = f"tags.`{RUN_KEY_TAG}` = '{run_key}'"
    query = {"experiment_ids": [found["experiment"]["experiment_id"]], "filter": wanted, "max_results": 1}
    runs = (await _ask(training, "POST", "runs/search", query)).get("runs", [])
    if not runs:
        return {}
    info, base = runs[0]["info"], training.tracking_ui_url.rstrip("/")
    return {MLflowRunLink().xcom_key: f"{base}/#/experiments/{info['experiment_id']}/runs/{info['run_id']}"}


async def _ask(training: Training, method: str, path: str, query: Mapping[str, Any]) -> dict[str, Any]:
    """MLflow's answer; {} when it gives none, as a link is not worth a task's failure or delay."""
    if not training.tracking_ui_url:
        return {}
    timeout = aiohttp.ClientTimeout(total=MLFLOW_SECONDS)
    url = f"{training.tracking_uri.rstrip('/')}/api/2.0/mlflow/{path}"
    sent: dict[str, Any] = {"params": query} if method == "GET" else {"json": query}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, url, **sent) as answer,
        ):
            return dict(await answer.json()) if answer.status == 200 else {}
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return {}
