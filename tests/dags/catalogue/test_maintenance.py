"""The DAG maintenance: what it starts, with what, and only where the platform has it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.param import ParamValidationError
from maintenance import PARAMS, TASKS, dag
from trainyard.platform import Platform
from trainyard.triggerer.templates import render

DAGS = Path(__file__).parents[3] / "dags"


def rendered(task_id: str, **params: Any) -> dict[str, Any]:
    """What a task's trigger is asked for in a run with these parameters."""
    values = {name: param.resolve() for name, param in PARAMS.items()} | params
    request = dag.get_task(task_id).start_trigger_args.trigger_kwargs["request"]
    return render(request, {"params": values, "ti": SimpleNamespace()}, run_key="k")


def test_its_tasks_have_nothing_to_do_with_each_other() -> None:
    assert set(dag.task_ids) == {"checkpoints", "airflow_database", "mlflow_garbage"}
    assert not [task for task in dag.tasks if task.upstream_task_ids]


def test_checkpoints_are_cleaned_by_age() -> None:
    request = rendered("checkpoints", dry_run=True)
    assert (request["step"], request["dataset"]) == ("clean", "file:///checkpoints")
    assert request["step_params"] == {"older_than_days": 30, "dry_run": True}


def test_the_cron_jobs_are_the_platforms(platform: Platform) -> None:
    assert platform.maintenance
    for name, (task_id, _) in TASKS.items():
        request = rendered(task_id)
        assert request["cron_job"] == platform.maintenance.cron_jobs[name]
        assert request["env"] == {"RETENTION_DAYS": None, "DRY_RUN": "false"}
    assert rendered("mlflow_garbage", mlflow_older_than_days=0, dry_run=True)["env"] == {
        "RETENTION_DAYS": 0,
        "DRY_RUN": "true",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("older_than_days", 0), ("airflow_older_than_days", 0), ("mlflow_older_than_days", -1)],
)
def test_an_age_that_would_take_what_is_in_use_is_refused(name: str, value: int) -> None:
    with pytest.raises(ParamValidationError):
        PARAMS[name].resolve(value)


def test_without_cron_jobs_there_is_only_the_first_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = json.loads((Path(__file__).parents[1] / "platform.json").read_text())
    del known["maintenance"]
    (tmp_path / "platform.json").write_text(json.dumps(known))
    monkeypatch.setenv("TRAINYARD_PLATFORM", str(tmp_path / "platform.json"))
    assert runpy.run_path(str(DAGS / "maintenance.py"))["dag"].task_ids == ["checkpoints"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [("", {"maintenance", "maintenance-vision"}), ("s3://bucket/checkpoints", {"maintenance"})],
)
def test_each_team_with_a_volume_has_a_dag_for_its_checkpoints(
    uri: str, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = json.loads((Path(__file__).parents[1] / "platform.json").read_text())
    known["teams"] = {"vision": {"namespace": "ml-vision", "dags": ["vision_*"]}}
    if uri:
        known["training"]["volumes"]["checkpoints"] = {"uri": uri}
    (tmp_path / "platform.json").write_text(json.dumps(known))
    monkeypatch.setenv("TRAINYARD_PLATFORM", str(tmp_path / "platform.json"))
    bag = DagBag(DAGS / "maintenance.py")
    assert bag.import_errors == {}
    assert set(bag.dag_ids) == expected
    for dag_id in expected - {"maintenance"}:
        assert bag.dags[dag_id].task_ids == ["checkpoints"]
        assert set(bag.dags[dag_id].params) == {"older_than_days", "dry_run"}
