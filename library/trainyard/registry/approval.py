"""Governance: a person approves before a model becomes champion, and each promotion says who, what and why.

    register >> approval_task(...) >> deploy >> promote

Whoever may answer finds the question under "Required Actions" in Airflow; the task holds no pod meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from trainyard.airflow_compat import hitl_users
from trainyard.registry.client import GateDecision
from trainyard.urls import run_url


class PromotionApproval(ApprovalOperator):
    """Airflow's ApprovalOperator, whose rejection is nobody's failure.

    It skips the tasks after it that need everything before them to succeed (a deployment). Tasks with another
    trigger rule run, as `promote` does, which then names the version challenger (see `overruled`).
    """

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Take the answer."""
        if "chosen_options" in event:
            # To skip is to raise, which would lose the return value: who said no and when.
            context["ti"].xcom_push(key="return_value", value=event)
        return super().execute_complete(context, event)

    def skip(self, ti: Any, tasks: Iterable[Any]) -> None:
        """Skip those of `tasks` that cannot go on without an approval."""
        super().skip(ti=ti, tasks=[task for task in tasks if task.trigger_rule == "all_success"])


@dataclass(frozen=True)
class ApprovalAnswer:
    """A person's answer. `by` is empty where nobody answered in time, which is a rejection."""

    approved: bool
    by: str
    at: str

    @property
    def reason(self) -> str:
        """The answer in words."""
        if not self.by:
            return f"nobody approved it by {self.at}"
        return f"{'approved' if self.approved else 'rejected'} by {self.by} at {self.at}"


def approval_task(
    task_id: str,
    *,
    subject: str,
    body: str,
    timeout: timedelta,
    approvers: Sequence[str] = (),
    **kwargs: Any,
) -> PromotionApproval:
    """A task that waits for a person; pass its `output` to `read_approval`.

    Args:
        task_id: its id.
        subject: the question, in a line; may hold templates.
        body: what one needs to know for the answer, in Markdown; may hold templates.
        timeout: how long to wait; no answer by then is a rejection.
        approvers: ids of those who may answer, as Airflow's auth manager has them (with FAB the number in the
            address of a user's page); with nobody named it is everybody who may change runs of the DAG.
        kwargs: as for any operator.
    """
    return PromotionApproval(
        task_id=task_id,
        subject=subject,
        body=body,
        defaults=PromotionApproval.REJECT,
        response_timeout=timeout,
        assigned_users=hitl_users(approvers) or None,
        **{"execution_timeout": timedelta(minutes=5), **kwargs},
    )


def read_approval(answer: Mapping[str, Any] | None) -> ApprovalAnswer | None:
    """The answer in the `output` of an approval task; None where none was asked for."""
    if not answer:
        return None
    user = answer.get("responded_by_user") or {}
    at = answer["responded_at"]
    return ApprovalAnswer(
        approved=answer["chosen_options"] == [PromotionApproval.APPROVE],
        by=str(user.get("name") or user.get("id") or ""),
        at=at if isinstance(at, str) else at.isoformat(timespec="seconds"),
    )


def overruled(gate: GateDecision, approval: ApprovalAnswer | None) -> GateDecision:
    """The gate's decision after a person's: who rejects keeps a model from becoming champion."""
    if approval is None or approval.approved:
        return gate
    return replace(gate, passed=False, reason=f"{approval.reason}; {gate.reason}")


def audit_tags(
    context: Mapping[str, Any],
    *,
    evaluation: Mapping[str, Any],
    gate: GateDecision,
    approval: ApprovalAnswer | None = None,
) -> dict[str, Any]:
    """What a promotion leaves on the version, as `tags` of `registry.promote`: who, what, against what.

    Args:
        context: of the task that promotes.
        evaluation: the result of the step `evaluate`.
        gate: the decision; `metric` and `champion_metric` (of `champion_version`) are what was compared.
        approval: the person's answer, if one was asked.
    """
    run = context["dag_run"]
    metrics = {
        name: value
        for name, value in evaluation.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    people = {"approved_by": approval.by, "approval": approval.reason} if approval else {}
    return {
        **metrics,
        "data_version": evaluation.get("data_version"),
        "compared_metric": gate.metric,
        "champion_metric": gate.champion_metric,
        "champion_version": gate.champion_version,
        **people,
        **run_tags(run),
    }


def run_tags(dag_run: Any) -> dict[str, Any]:
    """Tags of a version that say which run decided on it, and who started that."""
    return {
        "triggered_by": triggered_by(dag_run),
        "dag_id": dag_run.dag_id,
        "run_id": dag_run.run_id,
        "run_url": run_url(dag_run.dag_id, dag_run.run_id),
    }


def triggered_by(dag_run: Any) -> str:
    """Which user started a run; for a schedule or an asset, which has none, the type of the run."""
    return dag_run.triggering_user_name or str(getattr(dag_run.run_type, "value", dag_run.run_type))
