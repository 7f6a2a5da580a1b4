"""DAGs made of model files, on the cluster: every process of Airflow there reads dags/models/*.yaml."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Run
from trainyard_cli.mlflow_api import ModelVersion


@pytest.fixture(scope="module")
def train(
    model_name: str, trigger: Callable[..., str], finish: Callable[..., Run]
) -> Callable[..., tuple[str, Run]]:
    """Runs the DAG of a model file; returns the name that its model got in the registry, and the run."""

    def _train(name: str, **conf: object) -> tuple[str, Run]:
        dag, registered = f"{name}_training", f"{model_name}-{name}"
        return registered, finish(trigger(name, dag=dag, model_name=registered, **conf), dag=dag)

    return _train


def test_a_model_file_trains_a_champion(train, versions: Callable[..., list[ModelVersion]]) -> None:
    name, run = train("churn", epochs=3)
    assert run.state == "success", run.tasks
    assert set(run.tasks) == {
        *("validate", "preprocess", "train", "evaluate", "gate", "register", "promote", "notify"),
        "clean_up",
    }
    (version,) = versions(run.run_id, dag="churn_training")
    assert (version.name, version.aliases) == (name, ("champion",))
    assert float(version.tags["trainyard.roc_auc"]) >= 0.8
    assert version.tags["trainyard.triggered_by"]


def test_what_does_not_pass_the_gate_is_not_deployed(
    train, versions: Callable[..., list[ModelVersion]]
) -> None:
    name, run = train("recommendation", epochs=1, minimum=1)
    assert run.state == "success", run.tasks
    assert run.tasks["passed"]["state"] == "success"
    assert run.tasks["deploy"]["state"] == "skipped"
    (version,) = versions(run.run_id, dag="recommendation_training")
    assert (version.name, version.aliases) == (name, ("challenger",))
