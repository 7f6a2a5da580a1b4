"""The clean-up task: it runs after all others, whatever their states, and does not change the run's state."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import digits_training
import fraud_detection_training
import hyperparameter_sweep
import pytest
from airflow.models.dagrun import DagRun
from airflow.sdk import DAG, task
from airflow.serialization.serialized_objects import DagSerialization
from trainyard.training.cleanup import clean_up
from trainyard.triggerer.templates import render

DAGS = [digits_training.dag, fraud_detection_training.dag, hyperparameter_sweep.dag]
each_dag = pytest.mark.parametrize("dag", DAGS, ids=lambda dag: dag.dag_id)


@pytest.fixture
def dag() -> DAG:
    """Two parallel tasks, and a third after the first."""

    @task
    def work() -> None:
        """Do nothing."""

    with DAG("d", schedule=None, default_args={"retries": 2}) as dag:
        work.override(task_id="first")() >> work.override(task_id="last")()
        work.override(task_id="beside")()
        clean_up(dag)
    return dag


def finished(dag: DAG, states: dict[str, str]) -> Any:
    """The clean-up's parameter `finished` when the last tasks of the run `r` have these states."""
    fields = dag.get_task("clean_up").start_trigger_args.trigger_kwargs["request"]["step_params"]

    def get_task_states(*, dag_id: str, task_ids: list[str], run_ids: list[str]) -> Any:
        assert (dag_id, run_ids) == (dag.dag_id, ["r"])
        known = {name: state for name, state in states.items() if name in task_ids}
        return {"r": known} if known else {}

    ti = SimpleNamespace(dag_id=dag.dag_id, run_id="r", get_task_states=get_task_states)
    return render(fields, {"ti": ti})["finished"]


@each_dag
def test_every_training_ends_with_it(dag: DAG) -> None:
    task = dag.get_task("clean_up")
    assert task.is_teardown and not task.on_failure_fail_dagrun
    assert task.trigger_rule == "all_done_setup_success"
    assert dag.leaves == [task]
    assert "notify" in task.upstream_task_ids
    assert finished(dag, {"notify": "success", "deploy.predict": "skipped"}) is True
    assert finished(dag, {"notify": "upstream_failed", "deploy.predict": "skipped"}) is False


def test_a_run_is_finished_when_all_its_last_tasks_ended_well(dag: DAG) -> None:
    assert finished(dag, {"first": "success", "last": "success", "beside": "skipped"}) is True
    assert finished(dag, {"first": "failed", "last": "upstream_failed", "beside": "success"}) is False
    assert finished(dag, {"first": "success", "last": "success"}) is False
    assert finished(dag, {}) is False


@dataclass(frozen=True)
class Instance:
    """A task instance with the attributes that the trigger rule reads."""

    task_id: str
    state: str = "success"


@each_dag
def test_it_has_no_say_in_the_state_of_a_run(dag: DAG) -> None:
    """The run's state as the scheduler decides it, from the serialized DAG."""
    known = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    instances = [Instance(task_id) for task_id in known.task_ids]
    decide: Any = DagRun._tis_for_dagrun_state
    deciding = {instance.task_id for instance in decide(None, dag=known, tis=instances)}
    assert deciding == dag.get_task("clean_up").upstream_task_ids
