"""Alerts: a run that failed is told once, with what went wrong where, and where to look.

`on_failure` is the `on_failure_callback` of a DAG. Airflow runs it in the dag-processor after the last
attempt of whatever failed: tasks have no callbacks here, as those that start in the triggerer call none.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from trainyard import receivers
from trainyard.notify import last_tasks

log = logging.getLogger(__name__)
Severity = Literal["info", "warning", "error"]
MAX_TASKS = 10  # failed tasks that an alert describes; a big sweep may have hundreds
MAX_LINES = 20  # of a pod's log, and of its events
MAX_LINE = 300  # characters of a line
LOG_TAIL = 64 * 1024  # bytes of a worker's log in which to look for the error
MLFLOW_LINK = "_link_mlflow_run"  # the XCom of a training task's link to its MLflow run
_REASONS = {
    "timed_out": "it took longer than its dagrun_timeout",
    "all_tasks_deadlocked": "no task left can run",
}


@dataclass(frozen=True)
class Alert:
    """Something that people should hear of.

    Args:
        severity: `error` also pages whoever is on call; `warning` and `info` do not.
        title: one line.
        text: what happened, for people; plain text.
        details: the same for machines; anything JSON can hold.
        links: where to look, from the link's name to its URL.
        key: alerts of one key are one incident; the title unless given.
    """

    severity: Severity
    title: str
    text: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    key: str = ""


@dataclass(frozen=True)
class Failure:
    """A task instance that failed, with as much as is known of why."""

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
        """The task's id, with the index of a mapped one."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"

    def describe(self) -> str:
        """The failure in a few lines."""
        where = [f"pod {self.pod}"] if self.pod else []
        where += [f"node {self.node}"] if self.node else []
        where += [f"attempt {self.attempts}"] if self.attempts else []
        lines = [f"{self.name}: {self.cause}: {self.message}"]
        lines += [f"  {', '.join(where)}"] if where else []
        lines += [f"  event: {event}" for event in self.events]
        lines += [f"  | {line}" for line in self.log]
        return "\n".join(lines)


def send(alert: Alert) -> dict[str, str]:
    """Tell `alert` to the receivers in the Secret `trainyard-alerts`; return what became of it, by receiver.

    Never raises, and takes at most a few seconds. Only the triggerer and the dag-processor have the Secret.
    """
    try:
        alert = alert if alert.key else Alert(**{**vars(alert), "key": alert.title})
        results = receivers.deliver(receivers.posts(alert, receivers.DIRECTORY))
    except Exception:
        log.exception("the alert %r could not be sent", alert.title)
        return {}
    log.info("alert: [%s] %s", alert.severity, alert.title)
    for receiver, result in results.items():
        log.log(logging.INFO if result == "sent" else logging.WARNING, "alert to %s: %s", receiver, result)
    if not results:
        log.info("nobody hears of it: the Secret trainyard-alerts names no receiver")
    return results


async def asend(alert: Alert) -> dict[str, str]:
    """`send` for triggers, whose event loop it does not hold up."""
    return await asyncio.to_thread(send, alert)


def on_failure(context: Mapping[str, Any]) -> None:
    """Tell that a run failed: the `on_failure_callback` of a DAG."""
    dag_id, run_id = _run_of(context)
    try:
        failures = list(_failures(context, dag_id, run_id))
    except Exception:  # Airflow answers no questions: the alert still goes out
        log.exception("what failed in %s / %s cannot be read", dag_id, run_id)
        failures = []
    send(run_failed(dag_id, run_id, str(context.get("reason", "")), failures))


def on_success(context: Mapping[str, Any]) -> None:
    """Tell that a run succeeded, in the words of its last task: for a DAG that wants it."""
    dag_id, run_id = _run_of(context)
    try:
        last = [task.task_id for task in last_tasks(context["dag"])]
        results = [_xcom(dag_id, run_id, task_id, -1, "return_value") for task_id in last]
        said = [result for result in results if isinstance(result, str)]
    except Exception:
        log.exception("what came of %s / %s cannot be read", dag_id, run_id)
        said = []
    send(
        Alert(
            severity="info",
            title=f"{dag_id} succeeded",
            text="\n".join(said),
            details={"dag_id": dag_id, "run_id": run_id},
            links={"run": run_url(dag_id, run_id)},
            key=f"{dag_id}/{run_id}",
        )
    )


def run_failed(dag_id: str, run_id: str, reason: str, failures: Iterable[Failure]) -> Alert:
    """The alert for a failed run."""
    failures = list(failures)
    told = failures[:MAX_TASKS]
    text = [f"run {run_id}", _REASONS.get(reason, "")]
    text += [failure.describe() for failure in told]
    text += [f"and {len(failures) - len(told)} more"] if len(failures) > len(told) else []
    links = {"run": run_url(dag_id, run_id)}
    for one in told:
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
            "failures": [{**vars(one), "url": links[f"log of {one.name}"]} for one in told],
        },
        links=links,
        key=f"{dag_id}/{run_id}",
    )


def run_url(dag_id: str, run_id: str) -> str:
    """The run's page in Airflow."""
    from airflow.configuration import conf

    base = conf.get("api", "base_url", fallback="http://localhost:8080").rstrip("/")
    return f"{base}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"


def task_url(dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
    """A task instance's log in Airflow."""
    mapped = f"/mapped/{map_index}" if map_index >= 0 else ""
    return f"{run_url(dag_id, run_id)}/tasks/{quote(task_id, safe='')}{mapped}"


def _run_of(context: Mapping[str, Any]) -> tuple[str, str]:
    """DAG and run: all that the context is sure to hold."""
    return context["dag"].dag_id, context["run_id"]


def _failures(context: Mapping[str, Any], dag_id: str, run_id: str) -> Iterator[Failure]:
    """The failed task instances of a run, those that others only follow left out."""
    for task_id, map_index in _failed(context["dag"].task_ids, dag_id, run_id):
        known = _xcom(dag_id, run_id, task_id, map_index, "failure")
        mlflow = str(_xcom(dag_id, run_id, task_id, map_index, MLFLOW_LINK) or "")
        if isinstance(known, Mapping):
            yield Failure(
                task_id,
                map_index,
                cause=str(known.get("cause", "unknown")),
                message=str(known.get("message", "")),
                log=_lines(known.get("log")),
                events=_lines(known.get("events")),
                pod=str(known.get("pod") or ""),
                node=str(known.get("node") or ""),
                attempts=known.get("attempts"),
                mlflow=mlflow,
            )
        else:
            error, lines = _worker_log(dag_id, run_id, task_id, map_index)
            message = error or "see its log"
            yield Failure(task_id, map_index, "failed", message, log=_lines(lines), mlflow=mlflow)


def _failed(task_ids: Iterable[str], dag_id: str, run_id: str) -> Iterator[tuple[str, int]]:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(dag_id=dag_id, run_ids=[run_id]).get(run_id, {})
    known = set(task_ids)
    for name, state in states.items():
        if state == "failed":
            # Mapped instances come as TASK_INDEX.
            task_id, _, index = name.rpartition("_")
            yield (name, -1) if name in known or not index.isdigit() else (task_id, int(index))


def _xcom(dag_id: str, run_id: str, task_id: str, map_index: int, key: str) -> Any:
    from airflow.sdk.execution_time.xcom import XCom

    return XCom.get_one(key=key, dag_id=dag_id, task_id=task_id, run_id=run_id, map_index=map_index)


def _worker_log(dag_id: str, run_id: str, task_id: str, map_index: int) -> tuple[str, list[str]]:
    """Error and last lines of a task that ran on a worker: from its log, if that is on the shared volume."""
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
    # The exception comes first, what it was raised from after it.
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


def _lines(value: Any) -> tuple[str, ...]:
    """The last of `value`'s lines, each cut to a length that a message bears."""
    lines = value.splitlines() if isinstance(value, str) else [str(line) for line in value or []]
    return tuple(line[:MAX_LINE] for line in lines[-MAX_LINES:])
