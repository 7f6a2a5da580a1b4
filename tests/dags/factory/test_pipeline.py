"""The pipeline that a model file becomes: its tasks, their order, and what one run may change."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, Asset
from airflow.sdk.definitions._internal.templater import create_template_env
from airflow.sdk.definitions.param import ParamValidationError
from test_spec import LEAST, ROOT
from trainyard.alerts.callbacks import on_failure, on_success
from trainyard.assets import DATE
from trainyard.factory import pipeline as pipelines
from trainyard.factory.spec import parse_spec
from trainyard.failures import TaskFailed
from trainyard.flow import day_of_data
from trainyard.platform import Platform
from trainyard.registry.tasks import gate

EVALUATION = {"roc_auc": 0.91, "score": 0.91, "data_version": "0123456789ab", "mlflow_run_id": "r"}
OF_THE_DAY = LEAST.replace("generator://customers?rows=100&seed=1", "file:///data/incoming/x/date={date}")


def pipeline(platform: Platform, more: str = "", text: str = LEAST) -> DAG:
    return pipelines.training_pipeline(parse_spec(text + more, "churn", platform), platform)


def request_of(dag: DAG, task_id: str) -> dict[str, Any]:
    """What the trigger of a training task gets."""
    return dag.get_task(task_id).start_trigger_args.trigger_kwargs["request"]


def after(dag: DAG, task_id: str) -> set[str]:
    return dag.get_task(task_id).upstream_task_ids


def test_the_least_pipeline_in_its_order(platform: Platform) -> None:
    dag = pipeline(platform)
    assert [task.task_id for task in dag.topological_sort()] == [
        *("validate", "preprocess", "train", "evaluate", "gate", "register", "promote", "notify", "clean_up")
    ]
    assert after(dag, "register") == {"evaluate", "gate"}
    assert after(dag, "promote") == {"evaluate", "gate", "register"}


def test_features_are_computed_beside_the_cleaning(platform: Platform) -> None:
    dag = pipeline(platform, "features: true")
    assert after(dag, "features") == after(dag, "preprocess") == {"validate"}
    assert after(dag, "train") == {"preprocess", "features"}
    for task_id in ("train", "evaluate"):
        assert "task_ids='features', key='dataset'" in request_of(dag, task_id)["step_params"]["features_uri"]


def test_the_steps_of_the_data_get_the_split(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "images/trainer/src"))
    from trainyard_trainer.params import COMMON, complete

    assert set(request_of(pipeline(platform), "validate")["step_params"]) == {"model", "date"}
    dag = pipeline(platform, "split: {by: group, column: household, max_repeated: 0.1}")
    for task_id in ("validate", "preprocess"):
        given = request_of(dag, task_id)["step_params"]
        known = complete({**given, "date": "2026-11-28"}, COMMON)
        assert (known["split"], known["split_column"], known["max_repeated"]) == ("group", "household", 0.1)
    assert "split" not in request_of(dag, "train")["step_params"]


@pytest.mark.parametrize(
    ("more", "chain"),
    [
        ("approval: true\n", ["register", "passed", "approve", "promote"]),
        ("deploy: true\n", ["register", "passed", "deploy", "promote"]),
        (
            "approval: true\ndeploy: true\n",
            ["register", "passed", "approve", "still_passed", "deploy", "promote"],
        ),
    ],
)
def test_a_release_comes_before_the_promotion(platform: Platform, more: str, chain: list[str]) -> None:
    dag = pipeline(platform, more)
    for before, then in pairwise(chain):
        assert before in after(dag, then)
    # Skipped for a version that did not pass, which is promoted to challenger nevertheless.
    assert dag.get_task("passed").kind == "short_circuit"
    assert dag.get_task("promote").trigger_rule == "none_failed"


def test_the_registered_version_is_what_is_deployed(platform: Platform) -> None:
    dag = pipeline(platform, "deploy: {replicas: 3}")
    request = request_of(dag, "deploy")
    assert request["model"] == "{{ params.model_name }}"
    assert "task_ids='register', key='version'" in request["version"]
    assert request["replicas"] == 3


def test_the_person_who_approves_reads_what_it_is_about(platform: Platform) -> None:
    task = pipeline(platform, "approval: {timeout: 2h, approvers: [7]}").get_task("approve")
    told = {"register": {"version": "4"}, "gate": {"reason": "0.91 is better"}, "evaluate": EVALUATION}

    class Ti:
        def xcom_pull(self, task_ids: str) -> Any:
            return told[task_ids]

    env = create_template_env()
    context = {"params": {"model_name": "churn"}, "ti": Ti()}
    assert env.from_string(task.subject).render(context) == "Shall churn v4 become champion?"
    body = env.from_string(task.body).render(context)
    assert "0.91 is better" in body and "- roc_auc: 0.91\n" in body and "data_version" not in body
    assert [user["id"] for user in task.assigned_users] == ["7"]
    assert task.response_timeout.total_seconds() == 7200


def test_training_gets_the_parameters_of_the_run(platform: Platform) -> None:
    text = LEAST.replace(
        "{pool: ondemand}", "{pool: spot, escalate_to: ondemand, fallback: cpu, params: {seed: 3}}"
    )
    dag = pipeline(platform, text=text)
    request = request_of(dag, "train")
    assert request["step_params"]["seed"] == "{{ params.seed }}"
    assert request_of(dag, "evaluate")["step_params"]["champion"] == "{{ params.model_name }}"
    assert request["gpu_pool"] == "{{ params.pool }}"
    assert (request["escalate_to"], request["fallback"]) == ("ondemand", "cpu")
    assert dag.get_task("train").pool == "gpu-spot"
    assert dag.params["seed"] == 3
    for name, value in [
        ("seed", -1),
        ("seed", 2**64),
        ("pool", "cloud"),
        ("minimum", 2),
        ("data_date", "now"),
    ]:
        with pytest.raises(ParamValidationError):
            dag.params.get_param(name).resolve(value)


@pytest.mark.parametrize(
    ("train", "nodes"),
    [("{pool: ondemand}", 1), ("{pool: ondemand, nodes: 2}", 2), ("{pool: spot, fallback: cpu}", None)],
)
def test_a_run_may_train_on_more_nodes(platform: Platform, train: str, nodes: int | None) -> None:
    dag = pipeline(platform, text=LEAST.replace("{pool: ondemand}", train))
    assert dag.params.get("nodes") == nodes
    assert request_of(dag, "train")["nodes"] == ("{{ params.nodes }}" if nodes else 1)


@pytest.mark.parametrize(("more", "name"), [("", "churn"), ("registered_as: cards", "cards")])
def test_two_files_of_one_model_have_a_champion_each(platform: Platform, more: str, name: str) -> None:
    dag = pipeline(platform, f"model: fraud\n{more}")
    assert request_of(dag, "train")["step_params"]["model"] == "fraud"
    assert dag.params["model_name"] == name


def test_a_model_without_a_pool_trains_on_cpus(platform: Platform) -> None:
    dag = pipeline(platform, text=LEAST.replace("pool: ondemand", "pool: null"))
    assert request_of(dag, "train")["gpu_pool"] is None
    assert "pool" not in dag.params


def test_schedule_and_alerts_are_those_of_the_file(platform: Platform) -> None:
    dag = pipeline(
        platform, 'schedule: {asset: "s3://incoming/x"}\nnotify: always\nowner: team-a\nretries: 4\n'
    )
    assert dag.timetable.asset_condition == Asset("s3://incoming/x")
    assert dag.has_on_success_callback and dag.on_success_callback is on_success
    assert dag.on_failure_callback is on_failure
    assert {task.owner for task in dag.tasks} == {"team-a"}
    assert {task.retries for task in dag.tasks} == {4}
    assert pipeline(platform).on_success_callback is None
    assert pipeline(platform, 'schedule: "0 2 * * 1"').timetable.expression == "0 2 * * 1"


def test_data_of_the_day(platform: Platform) -> None:
    dag = pipeline(platform, text=OF_THE_DAY)
    request = request_of(dag, "validate")
    assert request["dataset"] == f"file:///data/incoming/x/date={DATE}"
    assert request["step_params"]["date"] == DATE
    assert dag.get_task("promote").arguments["date"] == DATE
    assert "day_of_data" not in dag.task_ids


def test_what_a_delivery_starts_works_on_the_day_of_the_delivery(platform: Platform) -> None:
    dag = pipeline(platform, 'features: true\nschedule: {asset: "s3://incoming/x"}\n', OF_THE_DAY)
    day = "{{ ti.xcom_pull(task_ids='day_of_data', key='return_value', map_indexes=-1) }}"
    assert request_of(dag, "validate")["dataset"] == f"file:///data/incoming/x/date={day}"
    for task_id in ("validate", "preprocess", "features"):
        assert request_of(dag, task_id)["step_params"]["date"] == day
    assert dag.get_task("promote").arguments["date"].operator.task_id == "day_of_data"
    assert dag.get_task("day_of_data").downstream_task_ids >= {"validate", "promote"}
    assert "run_after" not in str([task.start_trigger_args for task in dag.tasks])


@pytest.mark.parametrize(
    ("given", "events", "day"),
    [
        ("2026-11-02", {"x": [SimpleNamespace(extra={"date": "2026-11-09"})]}, "2026-11-02"),
        (None, {"x": [SimpleNamespace(extra={"date": "2026-11-09"})]}, "2026-11-09"),
        (None, {"x": [SimpleNamespace(extra={})]}, "2026-11-16"),
        (None, {}, "2026-11-16"),
    ],
)
def test_the_day_of_a_delivery(given: str | None, events: dict[str, Any], day: str) -> None:
    context = {
        "params": {"data_date": given},
        "triggering_asset_events": events,
        "dag_run": SimpleNamespace(run_after=datetime(2026, 11, 16, 2, tzinfo=UTC)),
    }
    assert asyncio.run(day_of_data.function(context)) == day


def test_the_gate_names_the_metrics_that_there_are() -> None:
    with pytest.raises(TaskFailed, match="no metric 'f1', only roc_auc, score; name one of those") as failed:
        asyncio.run(gate.function({}, EVALUATION, model="m", metric="f1", minimum=0, min_improvement=0))
    assert (failed.value.cause, failed.value.retry) == ("bad_config", False)
