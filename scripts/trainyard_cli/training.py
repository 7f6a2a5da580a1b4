"""Runs a DAG and tells how it went; for the training DAG also which model came out of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from . import paths, release
from .errors import CliError
from .follow import failures, follow
from .mlflow_api import Mlflow, ModelVersion
from .platform import ADMIN_SECRET, MLFLOW_ADMIN_SECRET, Platform

TRAINING_DAG = "digits_training"
# Metrics of the summary, the ones that decide first.
# Of those a model has: on held-out data, then of the training.
SHOWN_METRICS = (
    *("average_precision", "roc_auc", "f1_macro", "accuracy"),
    *("val_average_precision", "val_roc_auc", "val_f1_macro", "train_loss", "val_loss"),
)


def parse_conf(text: str) -> dict[str, Any]:
    """Return the JSON object given with --conf; CliError names the position of a mistake."""
    try:
        conf = json.loads(text)
    except json.JSONDecodeError as error:
        line = text.splitlines()[error.lineno - 1] if text else ""
        message = f"--conf is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        cure = """write an object in quotes, e.g. --conf '{"epochs": 3}'"""
        raise CliError(f"{message}\n    {line}\n    {' ' * (error.colno - 1)}^", cure) from error
    if not isinstance(conf, dict):
        message = f"--conf must be a JSON object, not {type(conf).__name__}"
        raise CliError(message, """e.g. --conf '{"epochs": 3}'""")
    return conf


def new_run_id(command: str) -> str:
    """Return a run id that names the command and is unique to the second."""
    return f"{command}-{datetime.now(UTC):%Y%m%dT%H%M%S}"


def start_or_resume(platform: Platform, dag_id: str, command: str) -> str:
    """Return the id of a run that an interrupted command left going, else of a new one."""
    for run_id in platform.airflow.unfinished_runs(dag_id):
        if run_id.startswith(f"{command}-"):
            return run_id
    run_id = new_run_id(command)
    start(platform, dag_id, {}, run_id)
    return run_id


def parse_date(text: str) -> datetime | None:
    """Return the time given with --logical-date, in UTC where it names no zone; None for no text."""
    if not text:
        return None
    try:
        date = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"--logical-date is {text!r}, which is no date"
        raise CliError(message, "write one as 2026-11-27 or 2026-11-27T03:00+01:00") from error
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def start(
    platform: Platform,
    dag_id: str,
    conf: dict[str, Any],
    run_id: str,
    logical_date: datetime | None = None,
) -> None:
    """Trigger the DAG as it was released, not as an older DAG processor read it."""
    released = release.dag_processor_started(platform.kube)
    platform.airflow.wait_for_dag(dag_id, parsed_after=released)
    platform.airflow.trigger(dag_id, conf, run_id, logical_date)


def follow_to_success(platform: Platform, dag_id: str, run_id: str, console: Console) -> None:
    """Show the run until it ends. CliError names each failed task with its cause and last log lines."""
    console.print(
        f"{dag_id} {run_id}: {platform.airflow.run_url(dag_id, run_id)}", markup=False, soft_wrap=True
    )
    try:
        state = follow(platform.airflow, platform.kube, dag_id, run_id, console)
    except KeyboardInterrupt:
        again = f"./scripts/run {dag_id} --run-id {run_id}"
        console.print(
            f"no longer following; the run goes on. To look again: {again}", markup=False, soft_wrap=True
        )
        raise
    if state == "success":
        return
    failed = failures(platform.airflow, dag_id, run_id)
    lines = [f"run {run_id} of {dag_id} ended as {state}"]
    for each in failed:
        lines += [
            f"task {each.task}, try {each.try_number}: {each.cause}",
            *(f"  | {text}" for text in each.log),
        ]
    where = platform.airflow.run_url(dag_id, run_id)
    raise CliError(
        "\n  ".join(lines), f"fix the cause above, then run the command again; all of the log: {where}"
    )


def trained_version(platform: Platform, run_id: str) -> ModelVersion:
    """Return the version that the run registered, as MLflow has it; CliError without one or its alias."""
    run_key = f"{TRAINING_DAG}__{run_id}"
    versions = platform.mlflow.versions_of_run(run_key)
    if not versions:
        message = (
            f"the run succeeded but MLflow holds no model version with the tag trainyard.run_key={run_key}"
        )
        raise CliError(
            message, f"see the log of task promote: {platform.airflow.run_url(TRAINING_DAG, run_id)}"
        )
    version = versions[-1]
    if not {"champion", "challenger"} & set(version.aliases):
        message = f"{version.name} version {version.version} is neither champion nor challenger"
        raise CliError(message, f"see the log of task gate: {platform.airflow.run_url(TRAINING_DAG, run_id)}")
    return version


def summary(platform: Platform, version: ModelVersion, console: Console) -> None:
    """Print what came out, and where to look."""
    outcome = (
        "champion: promoted"
        if "champion" in version.aliases
        else "challenger: the present champion is as good, so it stays"
    )
    metrics = [f"{name} {version.metrics[name]:.4f}" for name in SHOWN_METRICS if name in version.metrics]
    lines = {
        "model": f"{version.name} version {version.version}",
        "alias": outcome,
        "metrics": ", ".join(metrics),
        "MLflow run": Mlflow.run_url(platform.mlflow, version),
    }
    _print_facts(lines, console)


def access(platform: Platform, console: Console) -> None:
    """Print where the pages are and how to log in; the password itself to a terminal only, not to a log."""
    _print_facts({"Airflow": platform.airflow.base_url}, console)
    _print_login(ADMIN_SECRET, platform.username, platform.password, console)
    _print_facts({"MLflow": platform.mlflow.base_url}, console)
    if platform.mlflow.auth:
        _print_login(MLFLOW_ADMIN_SECRET, *platform.mlflow.auth, console)


def _print_login(secret: str, user: str, password: str, console: Console) -> None:
    read = f"kubectl --kubeconfig {paths.KUBECONFIG} -n trainyard get secret {secret}"
    read += " -o jsonpath={.data.password} | base64 -d"
    _print_facts({"  user": user, "  password": password if console.is_terminal else read}, console)


def _print_facts(facts: dict[str, str], console: Console) -> None:
    for name, value in facts.items():
        console.print(f"{name:<12} {value}", markup=False, highlight=False, soft_wrap=True)
