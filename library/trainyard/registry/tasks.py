"""Control tasks of the registry: gate, register, promote and what decides between them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from trainyard import lineage
from trainyard.assets import CHAMPIONS, announce_champion
from trainyard.failures import Cause, TaskFailed
from trainyard.mlflow_client import MlflowClient
from trainyard.naming import run_key
from trainyard.platform import load_platform
from trainyard.registry import client as registry
from trainyard.registry.approval import audit_tags, overruled, read_approval, run_tags
from trainyard.registry.client import CHAMPION, GateDecision, as_of_now, find_alias
from trainyard.triggerer.control import control_task

log = logging.getLogger(__name__)


def connect() -> MlflowClient:
    """A client of the platform's MLflow server."""
    return MlflowClient(load_platform().training.tracking_uri)


@control_task()
async def gate(
    _: Context,
    evaluation: Mapping[str, Any],
    *,
    model: str,
    metric: str,
    minimum: float | str,
    min_improvement: float | str,
) -> dict[str, Any]:
    """Compare what `evaluate` found with the minimum and with the champion of `model` on the same data.

    The numbers may come from templates, as text.
    """
    if metric not in evaluation:
        numbers = sorted(name for name, value in evaluation.items() if isinstance(value, float))
        raise TaskFailed(
            Cause.BAD_CONFIG,
            f"evaluate gave no metric {metric!r}, only {', '.join(numbers)}; name one of those as the gate's",
        )
    async with connect() as mlflow:
        champion = await registry.champion_of(mlflow, model, metric, evaluation.get("champion"))
    decision = registry.decide(
        evaluation[metric], champion, minimum=float(minimum), min_improvement=float(min_improvement)
    )
    log.info("gate %s: %s", "passed" if decision.passed else "not passed", decision.reason)
    return vars(decision)


@control_task()
async def register(context: Context, evaluation: Mapping[str, Any], *, model: str) -> dict[str, Any]:
    """Make a version of `model` of what was trained; it has no alias yet."""
    async with connect() as mlflow:
        version = await registry.register(mlflow, model=model, **_trained(context, evaluation))
    return {"model": model, "version": version.version}


@control_task("short_circuit")
async def passed(_: Context, decision: Mapping[str, Any], version: Mapping[str, Any]) -> bool:
    """Go on to the release of a version that passed the gate, and that against the present champion.

    Else only the next task is skipped; `promote` runs, and names the version challenger.
    """
    async with connect() as mlflow:
        champion = await find_alias(mlflow, version["model"], CHAMPION)
    now = as_of_now(GateDecision(**decision), version["version"], champion)
    log.info("%s: %s", "goes on" if now.passed else "is not released", now.reason)
    return now.passed


@control_task(trigger_rule="none_failed", outlets=[CHAMPIONS])
async def promote(
    context: Context,
    evaluation: Mapping[str, Any],
    decision: Mapping[str, Any],
    answer: Mapping[str, Any] | None = None,
    *,
    model: str,
    date: str,
) -> dict[str, Any]:
    """Name the version `champion` if the gate passed, else `challenger`, and announce a new champion.

    The version is tagged with what it was judged by. `answer` is a person's, who may overrule the gate;
    `date` is the day of the data.
    """
    approval = read_approval(answer)
    verdict = overruled(GateDecision(**decision), approval)
    async with connect() as mlflow:
        promotion = await registry.promote(
            mlflow,
            model=model,
            **_trained(context, evaluation),
            gate=verdict,
            tags=audit_tags(context, evaluation=evaluation, gate=verdict, approval=approval),
        )
    result = _announced(context, promotion, date)
    model_uri = evaluation["model_uri"]
    await lineage.registered(context, model=model, version=promotion.version, model_uri=model_uri)
    return result


@control_task(outlets=[CHAMPIONS])
async def make_champion(context: Context, deployed: Mapping[str, Any]) -> dict[str, Any]:
    """Name what serves champion, because a person deployed it; `deployed` is the output of the deployment.

    The version before keeps tags that say until when it was champion.
    """
    dag_run = context["dag_run"]
    async with connect() as mlflow:
        promotion = await registry.make_champion(
            mlflow,
            model=deployed["model"],
            version=deployed["version"],
            run_key=run_key(dag_run.dag_id, dag_run.run_id),
            reason=f"deployed by {dag_run.dag_id}, run {dag_run.run_id}",
            tags=run_tags(dag_run),
        )
    return _announced(context, promotion, f"{dag_run.run_after:%Y-%m-%d}")


@control_task()
async def champion_version(_: Context, model: str, *, trained_as: str, trained_by: str) -> dict[str, str]:
    """The version that is champion now; the task is skipped without one.

    The result has its `uri`, and `version` for paths. Predictions are stored under the trainer's name of the
    model: when the registry has it under another name, `version` begins with that one, so that two models do
    not overwrite each other's predictions.

    Args:
        model: the name in the registry.
        trained_as: the trainer's name of the model.
        trained_by: the DAG that trains it, for the message when there is no champion.
    """
    async with connect() as mlflow:
        version = await find_alias(mlflow, model, CHAMPION)
    if version is None:
        raise AirflowSkipException(
            f"{model} has no champion yet: run {trained_by}, or give a version of it the alias champion in "
            "MLflow"
        )
    prefix = "" if model == trained_as else f"{model}-"
    return {"uri": f"models:/{model}/{version.version}", "version": f"{prefix}{version.version}"}


def _announced(context: Context, promotion: registry.Promotion, date: str) -> dict[str, Any]:
    """The promotion as a task's result, and a new champion among the task's asset events.

    At least once: Airflow gets the event when the task succeeds. A try that ended after the alias moved has
    lost it, so the next try of the same run adds it again.
    """
    if promotion.made_champion:
        events: Any = context["outlet_events"]
        announce_champion(events, model=promotion.model, version=promotion.version, date=date)
    return vars(promotion)


def _trained(context: Context, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What the registry has to know of the model that this run trained."""
    dag_run = context["dag_run"]
    return {
        "model_uri": evaluation["model_uri"],
        "run_id": evaluation["mlflow_run_id"],
        "run_key": run_key(dag_run.dag_id, dag_run.run_id),
    }
