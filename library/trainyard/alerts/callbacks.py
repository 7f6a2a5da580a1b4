"""Callbacks of DAGs: one alert for each failed run, with the failed tasks, their causes and links.

`on_failure` is the `on_failure_callback` of a DAG, which Airflow runs in the dag-processor when the run has
failed. Tasks have no callbacks: Airflow does not call those of tasks that start in the triggerer.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainyard.airflow_compat import read_xcom, task_states
from trainyard.alerts.alert import Alert
from trainyard.alerts.receivers import send
from trainyard.graph import last_tasks
from trainyard.naming import MLFLOW_LINK_XCOM
from trainyard.urls import run_url, task_url

log = logging.getLogger(__name__)
MAX_TASKS = 10  # failed tasks that an alert describes; a big sweep may have hundreds
MAX_LINES = 20  # of a pod's log, and of its events
MAX_LINE = 300  # characters of a line
LOG_TAIL = 64 * 1024  # bytes at the end of a worker's log that are searched for the error
_REASONS = {
    "timed_out": "it took longer than its dagrun_timeout",
    "all_tasks_deadlocked": "none of the remaining tasks can run",
}


@dataclass(frozen=True)
class Failure:
    """A failed task instance, with what is known about the cause."""

    task_id: str
    map_index: int
    cause: str
    message: str
    log: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    pod: str = ""
    node: str = ""
    attempts: int | None = None
    mlflow: str = ""

    @property
    def name(self) -> str:
        """The task's id, with the map index of a mapped task."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"

    def describe(self) -> str:
        """The failure as a few lines of text."""
        place = [f"pod {self.pod}"] if self.pod else []
        place += [f"node {self.node}"] if self.node else []
        place += [f"attempt {self.attempts}"] if self.attempts else []
        lines = [f"{self.name}: {self.cause}: {self.message}"]
        lines += [f"  {', '.join(place)}"] if place else []
        lines += [f"  event: {event}" for event in self.events]
        lines += [f"  | {line}" for line in self.log]
        return "\n".join(lines)


def on_failure(context: Mapping[str, Any]) -> None:
    """Send an alert that a run failed: the `on_failure_callback` of a DAG."""
    dag_id, run_id = _run_of(context)
    try:
        failures = list(_failures(context, dag_id, run_id))
    except Exception:  # send the alert without them
        log.exception("the failed tasks of %s / %s cannot be read", dag_id, run_id)
        failures = []
    send(run_failed(dag_id, run_id, str(context.get("reason", "")), failures))


def on_success(context: Mapping[str, Any]) -> None:
    """Send an alert that a run succeeded, with the result of its last task: an `on_success_callback`."""
    dag_id, run_id = _run_of(context)
    try:
        last = [task.task_id for task in last_tasks(context["dag"])]
        results = [read_xcom(dag_id, run_id, task_id, "return_value") for task_id in last]
        texts = [result for result in results if isinstance(result, str)]
    except Exception:  # send the alert without them
        log.exception("the results of %s / %s cannot be read", dag_id, run_id)
        texts = []
    send(
        Alert(
            severity="info",
            title=f"{dag_id} succeeded",
            text="\n".join(texts),
            details={"dag_id": dag_id, "run_id": run_id},
            links={"run": run_url(dag_id, run_id)},
            key=f"{dag_id}/{run_id}",
        )
    )


def run_failed(dag_id: str, run_id: str, reason: str, failures: Iterable[Failure]) -> Alert:
    """The alert for a failed run."""
    failures = list(failures)
    described = failures[:MAX_TASKS]
    text = [f"run {run_id}", _REASONS.get(reason, "")]
    text += [failure.describe() for failure in described]
    text += [f"and {len(failures) - len(described)} more"] if len(failures) > len(described) else []
    links = {"run": run_url(dag_id, run_id)}
    for one in described:
        links[f"log of {one.name}"] = task_url(dag_id, run_id, one.task_id, one.map_index)
        links |= {f"MLflow run of {one.name}": one.mlflow} if one.mlflow else {}
    what = ", ".join(f"{one.name} ({one.cause})" for one in failures[:3])
    return Alert(
        severity="error",
        title=f"{dag_id} failed: {what or _REASONS.get(reason) or reason or 'unknown'}",
        text="\n".join(line for line in text if line),
        details={
            "dag_id": dag_id,
            "run_id": run_id,
            "reason": reason,
            "failed_tasks": len(failures),
            "failures": [{**vars(one), "url": links[f"log of {one.name}"]} for one in described],
        },
        links=links,
        key=f"{dag_id}/{run_id}",
    )


def _run_of(context: Mapping[str, Any]) -> tuple[str, str]:
    """DAG id and run id, which every callback's context has."""
    return context["dag"].dag_id, context["run_id"]


def _failures(context: Mapping[str, Any], dag_id: str, run_id: str) -> Iterator[Failure]:
    """The failed task instances of a run, without those that are `upstream_failed`."""
    for task_id, map_index in _failed_tasks(context["dag"].task_ids, dag_id, run_id):
        details = read_xcom(dag_id, run_id, task_id, "failure", map_index)
        mlflow = str(read_xcom(dag_id, run_id, task_id, MLFLOW_LINK_XCOM, map_index) or "")
        if isinstance(details, Mapping):
            yield Failure(
                task_id,
                map_index,
                cause=str(details.get("cause", "unknown")),
                message=str(details.get("message", "")),
                log=_last_lines(details.get("log")),
                events=_last_lines(details.get("events")),
                pod=str(details.get("pod") or ""),
                node=str(details.get("node") or ""),
                attempts=details.get("attempts"),
                mlflow=mlflow,
            )
        else:
            error, lines = _worker_log(dag_id, run_id, task_id, map_index)
            message = error or "see its log"
            yield Failure(task_id, map_index, "failed", message, log=_last_lines(lines), mlflow=mlflow)


def _failed_tasks(task_ids: Iterable[str], dag_id: str, run_id: str) -> Iterator[tuple[str, int]]:
    states = task_states(dag_id, run_id)
    known = set(task_ids)
    for name, state in states.items():
        if state == "failed":
            # Mapped instances are named TASK_INDEX.
            task_id, _, index = name.rpartition("_")
            yield (name, -1) if name in known or not index.isdigit() else (task_id, int(index))


def _worker_log(dag_id: str, run_id: str, task_id: str, map_index: int) -> tuple[str, list[str]]:
    """Error and last log lines of a task that ran on a worker, if its log is on the shared volume."""
    from airflow.configuration import conf

    folder = Path(conf.get("logging", "base_log_folder"), f"dag_id={dag_id}", f"run_id={run_id}")
    folder /= f"task_id={task_id}"
    if map_index >= 0:
        folder /= f"map_index={map_index}"
    attempts = [file for file in folder.glob("attempt=*.log") if file.stem.rpartition("=")[2].isdigit()]
    if not attempts:
        return "", []
    last = max(attempts, key=lambda file: int(file.stem.rpartition("=")[2]))
    with last.open("rb") as stream:
        stream.seek(max(0, last.stat().st_size - LOG_TAIL))
        raw = stream.read().decode(errors="replace").splitlines()
    records = [record for record in map(_record, raw) if record]
    # The exception comes first, its cause after it.
    errors = [record["error_detail"][0] for record in records if record.get("error_detail")]
    error = f"{errors[-1].get('exc_type')}: {errors[-1].get('exc_value')}" if errors else ""
    lines = [str(record["event"]) for record in records if "event" in record]
    return error[:MAX_LINE], [line for line in lines if not line.startswith("::")]


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _last_lines(value: Any) -> tuple[str, ...]:
    """The last `MAX_LINES` lines of `value`, each cut to `MAX_LINE` characters."""
    lines = value.splitlines() if isinstance(value, str) else [str(line) for line in value or []]
    return tuple(line[:MAX_LINE] for line in lines[-MAX_LINES:])
