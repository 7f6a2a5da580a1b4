"""The arguments that `TrainingPodOperator` passes to its trigger, plain and mapped."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.sdk import DAG, task, task_group
from airflow.serialization.serialized_objects import DagSerialization
from trainyard.training.attempt import RetryPlan
from trainyard.training.operator import TRIGGER, TrainingPodOperator
from trainyard.training.pod import TrainingRequest
from trainyard.training.trigger import TrainingPodTrigger
from trainyard.triggerer.mapping import resolve_mapped

STEP = {"step": "train", "dataset": "file:///data/x", "output_uri": "file:///checkpoints/m"}


def request_of(operator: Any) -> dict[str, Any]:
    assert operator.start_from_trigger
    assert operator.start_trigger_args.trigger_cls == TRIGGER
    return operator.start_trigger_args.trigger_kwargs["request"]


@pytest.fixture
def dag() -> DAG:
    return DAG("d", schedule=None, start_date=datetime(2026, 1, 1))


def test_a_plain_task_starts_in_the_triggerer(dag: DAG) -> None:
    with dag:
        operator = TrainingPodOperator(task_id="t", gpu_pool="spot", deadline=timedelta(hours=1), **STEP)
    request = request_of(operator)
    assert request["deadline_seconds"] == 3600
    assert operator.pool == "gpu-spot"
    assert operator.start_trigger_args.timeout > timedelta(hours=1)
    assert TrainingPodTrigger(**operator.start_trigger_args.trigger_kwargs).serialize()[0] == TRIGGER


@pytest.mark.parametrize(("triggered_by", "user"), [("ada", "ada"), (None, "risk-team"), ("", "risk-team")])
def test_its_mlflow_run_is_the_users_or_else_the_owners(triggered_by: str | None, user: str) -> None:
    with DAG("d", schedule=None, default_args={"owner": "risk-team"}) as dag:
        TrainingPodOperator(task_id="plain", **STEP)
        TrainingPodOperator.partial(task_id="mapped", **STEP).expand(run_key=["a", "b"])
    for task_id in ("plain", "mapped"):
        ti = SimpleNamespace(dag_id="d", run_id="r", task_id=task_id, map_index=-1, try_number=1, id=uuid4())
        ti.task = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task(task_id)
        ti.dag_version_id = uuid4()
        trigger = TrainingPodTrigger({})
        trigger.task_instance = ti
        dag_run = SimpleNamespace(triggering_user_name=triggered_by)
        trigger.render_template_fields({"ti": ti, "dag_run": dag_run})
        assert trigger._origin_env() == {
            "TRAINYARD_AIRFLOW_URL": "http://localhost:8080/dags/d/runs/r",
            "TRAINYARD_USER": user,
            "TRAINYARD_DAG_VERSION": str(ti.dag_version_id),
        }


def test_a_cpu_task_and_a_templated_pool_keep_airflows_pool(dag: DAG) -> None:
    with dag:
        assert TrainingPodOperator(task_id="a", **STEP).pool == "default_pool"
        assert TrainingPodOperator(task_id="b", gpu_pool="{{ params.p }}", **STEP).pool == "default_pool"


def test_an_unknown_pool_is_an_import_error_which_names_the_others(dag: DAG) -> None:
    with dag, pytest.raises(Exception, match=r"no GPU pool 'cloud' .*ondemand, spot"):
        TrainingPodOperator(task_id="t", gpu_pool="cloud", **STEP)


def test_outputs_of_other_tasks_become_templates_and_dependencies(dag: DAG) -> None:
    with dag:
        first = TrainingPodOperator(task_id="first", **STEP)
        second = TrainingPodOperator(
            task_id="second", **{**STEP, "dataset": first.output["dataset"]}, step_params={"m": first.output}
        )
    assert second.upstream_task_ids == {"first"}
    request = request_of(second)
    assert request["dataset"] == "{{ ti.xcom_pull(task_ids='first', key='dataset', map_indexes=-1) }}"
    assert "return_value" in request["step_params"]["m"]


def test_the_trigger_gets_a_request_that_pods_understand(dag: DAG) -> None:
    with dag:
        request = resolve_mapped(request_of(TrainingPodOperator(task_id="t", **STEP)), -1)
    plan = RetryPlan(**{each.name: request.pop(each.name) for each in fields(RetryPlan)})
    assert plan == RetryPlan()
    assert request.pop("queue_timeout_seconds") > request.pop("startup_timeout_seconds") > 0
    assert TrainingRequest(**request).step == "train"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"on_oom": "more"}, "on_oom is 'more'; use 'memory' or 'batch' or 'fail'"),
        ({"fallback": "tpu"}, "fallback is 'tpu'; use None or 'cpu'"),
        ({"fallback_after": -1}, "fallback_after is -1"),
        ({"escalate_after": 0}, "escalate_after is 0"),
        ({"escalate_to": "cloud"}, "no GPU pool 'cloud'"),
    ],
)
def test_a_bad_policy_is_an_import_error_which_names_the_argument(
    dag: DAG, change: dict[str, Any], message: str
) -> None:
    with dag, pytest.raises(Exception, match=message):
        TrainingPodOperator(task_id="t", **STEP, **change)
    with dag, pytest.raises(Exception, match=message):
        TrainingPodOperator.partial(task_id="m", **STEP, **change).expand(image=["a"])


def test_a_policy_may_come_from_parameters(dag: DAG) -> None:
    policy = {"fallback": "{{ params.f }}", "fallback_after": "{{ params.s }}", "run_key": "k"}
    with dag:
        request = request_of(TrainingPodOperator(task_id="t", **STEP, **policy))
    assert request["fallback_after_seconds"] == "{{ params.s }}"
    assert (request["fallback"], request["run_key"]) == ("{{ params.f }}", "k")


def test_its_links_survive_serialization(dag: DAG) -> None:
    with dag:
        TrainingPodOperator(task_id="t", **STEP)
    decoded = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("t")
    assert sorted(decoded.extra_links) == ["MLflow run", "Why pending"]


def test_mapped_over_literals_and_outputs(dag: DAG) -> None:
    with dag:

        @task
        def candidates() -> list[dict[str, float]]:
            return [{"learning_rate": 0.1}]

        mapped = TrainingPodOperator.partial(task_id="m", gpu_pool="ondemand", **STEP).expand(
            step_params=candidates(), image=["a", "b"]
        )
    request = request_of(mapped)
    assert mapped.partial_kwargs["pool"] == "gpu-ondemand"
    names = [name for name, _ in request["mapped"]["product"]]
    assert names == ["step_params", "image"]
    assert "xcom_pull(task_ids='candidates'" in request["mapped"]["product"][0][1]
    decoded = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("m")
    assert decoded.start_from_trigger and decoded.start_trigger_args


def test_in_a_mapped_group_each_instance_has_its_own_arguments(dag: DAG) -> None:
    @task_group
    def group(pool: Any, rate: Any) -> None:
        first = TrainingPodOperator(
            task_id="first", gpu_pool=pool, step_params={"rate": rate, "seed": 1}, **STEP
        )
        then = {**STEP, "dataset": first.output["dataset"]}
        TrainingPodOperator(task_id="then", **then)

    with dag:
        group.expand(pool=["spot", "ondemand"], rate=[0.1, 0.2])
    serialized = DagSerialization.from_dict(DagSerialization.to_dict(dag))

    def rendered(name: str, index: int) -> dict[str, Any]:
        task = serialized.get_task(f"group.{name}")
        pulled = {("group.first", "dataset", 2): "file:///data/2"}
        ti = SimpleNamespace(
            dag_id="d", run_id="r", task_id=task.task_id, map_index=index, try_number=1, id=uuid4()
        )
        ti.task, ti.xcom_pull = task, lambda **of: pulled[of["task_ids"], of["key"], of["map_indexes"]]
        trigger = TrainingPodTrigger(request_of(dag.get_task(task.task_id)))
        trigger.task_instance = ti
        assert trigger.identity.run_key() == f"d__r__group-{index}"
        return trigger.rendered({"ti": ti})

    request = rendered("first", 2)
    assert (request["gpu_pool"], request["step_params"]) == ("ondemand", {"rate": 0.1, "seed": 1})
    assert rendered("then", 2)["dataset"] == "file:///data/2"


def test_the_class_itself_is_untouched_by_mapping(dag: DAG) -> None:
    with dag:
        TrainingPodOperator.partial(task_id="m", **STEP).expand_kwargs([{"step_params": {"i": 1}}])
    assert TrainingPodOperator.start_trigger_args is None
