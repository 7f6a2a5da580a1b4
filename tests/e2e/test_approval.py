"""A person's no keeps a model from becoming champion, a yes is written onto its version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from conftest import give_up
from pods import wait_until
from trainyard_cli.airflow_api import Airflow
from trainyard_cli.mlflow_api import ModelVersion

DAG = "fraud_training"
# The gate lets everything pass: whether it becomes champion is the person's to say.
CONF = {"epochs": 1, "minimum": 0, "min_improvement": 0}


@pytest.fixture(autouse=True)
def no_run_of_an_earlier_session(airflow: Airflow) -> None:
    """A session that was killed leaves a run that nobody will answer, and which holds up others for days."""
    for run_id in airflow.unfinished_runs(DAG):
        if "-digits-e2e-" in run_id:
            give_up(airflow, DAG, run_id)


def test_no_is_a_challenger_and_yes_a_champion(
    airflow: Airflow,
    model_name: str,
    trigger: Callable[..., str],
    finish: Callable[..., Any],
    versions: Callable[..., list[ModelVersion]],
) -> None:
    conf = {**CONF, "model_name": f"{model_name}-approval"}
    # Both train at the same time: the model file allows two runs.
    runs = {
        option: trigger(f"approval-{option.lower()}", dag=DAG, **conf) for option in ("Reject", "Approve")
    }
    for option, alias in (("Reject", "challenger"), ("Approve", "champion")):
        run_id = runs[option]
        _answer(airflow, run_id, option)
        run = finish(run_id, dag=DAG)
        assert run.state == "success"
        assert run.tasks["promote"]["state"] == run.tasks["notify"]["state"] == "success"
        (version,) = versions(run_id, dag=DAG)
        assert version.aliases == (alias,)
        tags = version.tags
        assert tags["trainyard.approved_by"] == tags["trainyard.triggered_by"]
        assert ("rejected by" in tags["trainyard.reason"]) == (option == "Reject")
        assert tags["trainyard.run_url"].endswith(f"/dags/{DAG}/runs/{quote(run_id, safe='')}")
        for name in ("data_version", "git_commit", "compared_metric", "average_precision"):
            assert tags[f"trainyard.{name}"], name


def _answer(airflow: Airflow, run_id: str, option: str) -> None:
    """Answer the question of the run, as its page does, once it is asked."""

    def waiting() -> bool:
        instances = airflow.task_instances(DAG, run_id)
        states = {one["task_id"]: one["state"] for one in instances}
        assert "failed" not in states.values(), states
        return states.get("approve") == "awaiting_input"

    wait_until("somebody to be asked", waiting, seconds=600, every=2)
    path = f"/api/v2/dags/{DAG}/dagRuns/{quote(run_id)}/taskInstances/approve/-1/hitlDetails"
    airflow.request("PATCH", path, json={"chosen_options": [option], "params_input": {}})
