"""Links from a training task to what it waits for and to its MLflow run.

No worker runs beside a training task, so the trigger pushes the XComs from which Airflow's pages take the
links. A worker that only fails the task asks `get_link` again: it must answer with what is there already.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from airflow.sdk import BaseOperatorLink
from trainyard_contract import Tag

from trainyard.airflow_compat import read_own_xcom
from trainyard.mlflow_client import MlflowClient, MlflowError
from trainyard.naming import MLFLOW_LINK_XCOM, TaskIdentity
from trainyard.platform import Training
from trainyard.urls import task_url

MLFLOW_SECONDS = 5


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
    xcom_key = MLFLOW_LINK_XCOM

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """What the trigger found."""
        return str(read_own_xcom(ti_key, self.xcom_key) or "")


def why_pending(task: TaskIdentity) -> dict[str, str]:
    """The XCom of the link `Why pending`."""
    link = WhyPendingLink()
    return {link.xcom_key: link.get_link(None, ti_key=task)}


async def mlflow_run(
    training: Training, experiment: str, run_key: str, tags: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """The XCom of the link to the run with that key, which gets the tags.

    {} while there is none, without an address for people, and when MLflow does not answer: a link is not
    worth a task's failure or delay.
    """
    if not training.tracking_ui_url and not tags:
        return {}
    try:
        async with MlflowClient(training.tracking_uri, patience=0, call_seconds=MLFLOW_SECONDS) as mlflow:
            found = await mlflow.get_experiment_id(experiment)
            wanted = f"tags.`{Tag.RUN_KEY}` = '{run_key}'"
            runs = await mlflow.search_runs(found, wanted, limit=1) if found else []
            for key, value in tags.items() if runs else ():
                await mlflow.set_tag(runs[0].run_id, key, value)
    except MlflowError:
        return {}
    if not runs or not training.tracking_ui_url:
        return {}
    base = training.tracking_ui_url.rstrip("/")
    page = f"{base}/#/experiments/{runs[0].experiment_id}/runs/{runs[0].run_id}"
    return {MLflowRunLink().xcom_key: page}
