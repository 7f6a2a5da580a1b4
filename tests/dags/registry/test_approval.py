"""A person's yes or no, and what a promotion leaves for the audit."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import DownstreamTasksSkipped, TaskAwaitingInput
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CreateHITLDetailPayload
from airflow.sdk.serde import deserialize, serialize
from airflow.serialization.serialized_objects import DagSerialization
from trainyard.registry.approval import (
    ApprovalAnswer,
    PromotionApproval,
    approval_task,
    audit_tags,
    overruled,
    read_approval,
)
from trainyard.registry.client import GateDecision

AT = datetime(2026, 11, 21, 13, 0, 1, 5, tzinfo=UTC)
GATE = GateDecision(True, "0.95 is better", 0.95, 0.9, "7")


def event(option: str, user: dict[str, str] | None = None) -> dict[str, Any]:
    """What Airflow resumes the task with."""
    return {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": AT,
        "responded_by_user": user,
        "timedout": user is None,
    }


@pytest.fixture
def dag() -> DAG:
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1)) as dag:
        approve = approval_task(
            "approve", subject="Promote?", body="it is better", timeout=timedelta(days=1), approvers=["1"]
        )

        @task
        def deploy() -> None: ...

        @task(trigger_rule="none_failed")
        def promote() -> None: ...

        approve >> deploy() >> promote()
        approve >> dag.get_task("promote")
    return dag


def answer(dag: DAG, what: dict[str, Any]) -> tuple[ApprovalAnswer | None, list[str]]:
    """The approval as a later task reads it, through XCom, and the ids of the tasks that get skipped."""
    xcoms: dict[str, Any] = {}
    ti = SimpleNamespace(map_index=-1, xcom_push=lambda key, value: xcoms.update({key: value}))
    approve, skipped = dag.get_task("approve"), []
    try:
        # Airflow pushes what a task returns, and nothing when it raises.
        xcoms["return_value"] = dict(approve.execute_complete({"task": approve, "ti": ti}, what))
    except DownstreamTasksSkipped as skip:
        skipped = list(skip.tasks)
    return read_approval(deserialize(json.loads(json.dumps(serialize(xcoms["return_value"]))))), skipped


def test_it_asks_and_waits_without_a_pod(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    comms = SimpleNamespace(send=lambda msg: asked.append(msg))
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms, raising=False)
    ti = SimpleNamespace(id="00000000-0000-0000-0000-000000000001")
    with pytest.raises(TaskAwaitingInput) as waiting:
        dag.get_task("approve").execute({"task_instance": ti})
    assert waiting.value.timeout == timedelta(days=1)
    (request,) = asked
    assert isinstance(request, CreateHITLDetailPayload)
    assert (request.options, request.defaults) == (["Approve", "Reject"], ["Reject"])
    assert [user.id for user in request.assigned_users or []] == ["1"]


def test_without_approvers_everybody_may_answer(dag: DAG) -> None:
    with dag:
        free = approval_task("free", subject="?", body="", timeout=timedelta(hours=1))
    assert free.assigned_users is None
    assert free.execution_timeout == timedelta(minutes=5)


def test_an_approval_skips_nothing(dag: DAG) -> None:
    approval, skipped = answer(dag, event("Approve", {"id": "1", "name": "ada"}))
    assert approval == ApprovalAnswer(True, "ada", "2026-11-21T13:00:01+00:00")
    assert skipped == []
    assert overruled(GATE, approval) == GATE


def test_a_rejection_skips_the_deployment_and_leaves_a_challenger(dag: DAG) -> None:
    approval, skipped = answer(dag, event("Reject", {"id": "1", "name": "ada"}))
    assert skipped == ["deploy"]
    gate = overruled(GATE, approval)
    assert not gate.passed
    assert gate.reason == "rejected by ada at 2026-11-21T13:00:01+00:00; 0.95 is better"


def test_no_answer_is_a_rejection(dag: DAG) -> None:
    approval, skipped = answer(dag, event("Reject"))
    assert approval and not approval.approved and approval.reason.startswith("nobody approved it by")
    assert skipped == ["deploy"]


def test_where_nobody_was_asked_the_gate_decides() -> None:
    assert read_approval(None) is None
    assert overruled(GATE, None) == GATE


def test_it_survives_serialization(dag: DAG) -> None:
    encoded = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    assert DagSerialization.from_dict(encoded).get_task("approve").task_type == PromotionApproval.__name__


def test_a_promotion_leaves_who_what_and_against_which_metrics() -> None:
    run = SimpleNamespace(dag_id="d", run_id="r", triggering_user_name="ada", run_type="manual")
    evaluation = {"f1_macro": 0.95, "rows": 9, "data_version": "abc", "git_commit": "def", "model_uri": "m"}
    tags = audit_tags(
        {"dag_run": run}, evaluation=evaluation, gate=GATE, approval=ApprovalAnswer(True, "bob", "now")
    )
    assert tags == {
        "f1_macro": 0.95,
        "rows": 9,
        "data_version": "abc",
        "compared_metric": 0.95,
        "champion_metric": 0.9,
        "champion_version": "7",
        "triggered_by": "ada",
        "approved_by": "bob",
        "approval": "approved by bob at now",
        "dag_id": "d",
        "run_id": "r",
        "run_url": "http://localhost:8080/dags/d/runs/r",
    }
    run.triggering_user_name, run.run_type = None, "scheduled"
    assert audit_tags({"dag_run": run}, evaluation={}, gate=GATE)["triggered_by"] == "scheduled"
