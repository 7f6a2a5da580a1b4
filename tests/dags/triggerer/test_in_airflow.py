"""Control tasks in a real Airflow: its scheduling, its triggerer and its database, with a real MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from airflow_command import run_script

HERE = Path(__file__).parent / "in_airflow"
ROOT = Path(__file__).parents[3]
PLATFORM_FILE = ROOT / "tests/dags/platform.json"
MODEL = "in-airflow"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module")
def database(logs: Path, mlflow_uri: str) -> dict[str, Any]:
    """What Airflow's database has after the runs of in_airflow/dags."""
    platform = json.loads(PLATFORM_FILE.read_text())
    platform["training"]["trackingUri"] = mlflow_uri
    (logs / "platform.json").write_text(json.dumps(platform))
    conf = {"evaluation": evaluation(mlflow_uri), "model": MODEL}
    return run_script(
        logs,
        HERE / "run.py",
        json.dumps(conf),
        AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION="False",  # no event starts a DAG that is paused
        TRAINYARD_PLATFORM=str(logs / "platform.json"),
    )


def evaluation(uri: str) -> dict[str, Any]:
    """What `evaluate` returns of a trained model."""
    client = mlflow.MlflowClient(uri, uri)
    experiment = client.create_experiment(MODEL)
    run_id = client.create_run(experiment).info.run_id
    logged = client.create_logged_model(experiment, name="model", source_run_id=run_id)
    client.finalize_logged_model(logged.model_id, "READY")
    return {"f1": 0.9, "model_uri": f"models:/{logged.model_id}", "mlflow_run_id": run_id}


@pytest.fixture
def states(database: dict[str, Any]) -> dict[str, str]:
    """The states of the tasks of `control` that are not mapped."""
    return {
        task: state for dag, task, index, state, *_ in database["states"] if (dag, index) == ("control", -1)
    }


@pytest.fixture
def xcoms(database: dict[str, Any]) -> dict[tuple[str, str], Any]:
    return {
        (task, key): value
        for dag, task, key, value, index in database["xcoms"]
        if dag != "without_triggerer" and index == -1
    }


def test_a_result_is_one_xcom_and_each_of_its_keys(states: Any, xcoms: dict[tuple[str, str], Any]) -> None:
    assert states["gate"] == states["register"] == states["notify"] == "success"
    assert xcoms["gate", "return_value"]["passed"] is xcoms["gate", "passed"] is True
    assert xcoms["register", "return_value"] == {"model": MODEL, "version": "1"}
    assert xcoms["notify", "return_value"].startswith(f"{MODEL} v1 is now champion: 0.9000 reaches")
    assert ("arrived", "return_value") not in xcoms, "a task that returns nothing leaves nothing"


def test_a_branch_skips_the_groups_that_it_does_not_name(states: dict[str, str]) -> None:
    assert {task: states[task] for task in ("route", "good.promote", "bad.never", "bad.after_never")} == {
        "route": "success",
        "good.promote": "success",
        "bad.never": "skipped",
        "bad.after_never": "skipped",
    }
    assert states["join"] == "success", "it comes after the group that is followed"


def test_a_short_circuit_skips_what_comes_next(states: dict[str, str]) -> None:
    assert (states["no"], states["skipped"], states["later"]) == ("success", "skipped", "success")
    assert (states["yes"], states["goes_on"]) == ("success", "success")


def test_outlets_are_reported_with_what_a_task_says_of_them(database: dict[str, Any]) -> None:
    events = {event["uri"]: event for event in database["events"]}
    delivery = events["s3://incoming/x"]
    assert (delivery["task"], delivery["extra"]["date"]) == ("arrived", "2026-01-02")
    promoted = events[f"trainyard://models/{MODEL}/champion"]
    assert (promoted["task"], promoted["aliases"]) == ("good.promote", ["champions"])
    assert promoted["extra"] == {"model": MODEL, "version": "1", "date": "2026-01-02"}
    assert len(database["events"]) == 2
    assert database["queued"] == ["on_delivery"]


def test_a_run_knows_which_event_started_it(xcoms: dict[tuple[str, str], Any]) -> None:
    assert xcoms["day_of_data", "return_value"] == "2026-01-02"


def test_a_promotion_knows_who_started_the_run(database: dict[str, Any], mlflow_uri: str) -> None:
    version = mlflow.MlflowClient(mlflow_uri, mlflow_uri).get_model_version_by_alias(MODEL, "champion")
    assert version.tags["trainyard.triggered_by"] == "ada"
    assert version.tags["trainyard.run_key"] == "control__manual__1"


def test_a_task_is_mapped_over_what_a_control_task_returns(database: dict[str, Any]) -> None:
    indexes = [index for _, task, index, *_ in database["states"] if task == "each"]
    assert sorted(indexes) == [0, 1, 2]


@pytest.mark.parametrize("dag_id", ["mapped_group", "without_triggerer"])
def test_a_task_of_a_mapped_group_has_its_instances_arguments_and_outputs(
    database: dict[str, Any], dag_id: str
) -> None:
    found = {
        index: value[0]["step_params"]
        for dag, task, key, value, index in database["xcoms"]
        if (dag, task, key) == (dag_id, "judged.repeat", "return_value")
    }
    assert [found[index]["passed"] for index in range(4)] == [True, True, False, False]
    assert [found[index]["a"]["step_params"]["a"] for index in range(4)] == [3, 7, 3, 7]
    # All tasks of an instance share an MLflow run and checkpoints.
    keys = [found[index]["features_uri"] for index in range(4)]
    assert [key.rpartition("__")[2] for key in keys] == [f"judged-{index}" for index in range(4)]
    assert keys[0].startswith(f"{dag_id}__manual__")


def test_dag_test_runs_the_tasks_itself(database: dict[str, Any]) -> None:
    states = {task: state for dag, task, _, state, *_ in database["states"] if dag == "without_triggerer"}
    expected = {"skipped": ["skipped", "otherwise"], "failed": ["fails"]}
    found = {
        end: sorted(task for task, state in states.items() if state == end) for end in set(states.values())
    }
    assert {end: found[end] for end in expected} == {end: sorted(tasks) for end, tasks in expected.items()}
    assert found.keys() == {*expected, "success"}
    assert {"goes_on", "then", "tell", "judged.gate"} <= set(found["success"])
    xcoms = {
        (task, key, index): value
        for dag, task, key, value, index in database["xcoms"]
        if dag == "without_triggerer"
    }
    assert xcoms["gate", "return_value", -1]["passed"] is xcoms["gate", "passed", -1] is True
    assert "no metric 'nothing'" in xcoms["fails", "failure", -1]["message"]
    assert [xcoms["tell", "return_value", index] for index in range(2)] == [3, 7]


def test_what_no_try_can_cure_is_not_tried_again(database: dict[str, Any], xcoms: Any) -> None:
    ends = {task: tuple(end) for _, task, _, *end in database["states"]}
    assert ends["fails"][:2] == ("failed", 1)
    assert ends["fails_for_good"][:2] == ("failed", 1), "there is no use in the tries that are left"
    assert xcoms["fails", "failure"]["cause"] == "bad_config"
    assert "no metric 'nothing', only f1" in xcoms["fails", "failure"]["message"]
    assert ends["appoint"][:2] == ("failed", 1)
    assert "RESOURCE_DOES_NOT_EXIST" in xcoms["appoint", "failure"]["message"]


def test_what_a_task_says_is_in_its_log(database: dict[str, Any], logs: Path) -> None:
    (log,) = (logs / "logs").rglob("task_id=gate/attempt=1.log.trigger.*.log")
    said = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert any("gate passed: 0.9000 reaches the minimum" in line for line in said), said
