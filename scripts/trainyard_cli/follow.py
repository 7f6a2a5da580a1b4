"""Shows a DAG run live: each task with its pod, node, state and seconds, and why a pod waits."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from . import release
from .airflow_api import FINAL_RUN_STATES, Airflow
from .kube import Kube, waiting_reason

Json = dict[str, Any]
TaskKey = tuple[str, int]  # task id, map index (-1 for a task that is not mapped)

POLL_SECONDS = 1.0
# Without a terminal a line comes at least this often, so that a slow task does not look like a hung one.
HEARTBEAT_SECONDS = 20.0
LOG_LINES = 20
# How long a task may be deferred before that looks odd: the triggerer makes its pod within a second or two.
TRIGGERER_SECONDS = 10
# How often a task that waits is asked why, and how long a wait must be to be worth a line at the end.
ASK_SECONDS = 3.0
LONG_WAIT_SECONDS = 5.0

# Where a run's pods are, and the label that finds them there. Each team trains in a namespace of its own.
POD_SOURCES = (
    ("/api/v1/pods", "app.kubernetes.io/managed-by=trainyard"),
    (f"/api/v1/namespaces/{release.NAMESPACE}/pods", "kubernetes_executor=True"),
)
STATE_STYLES = {
    "success": "green",
    "running": "cyan",
    "failed": "bold red",
    "upstream_failed": "red",
    "up_for_retry": "yellow",
    "skipped": "magenta",
}


@dataclass(frozen=True)
class Pod:
    """What was last seen of a task's pod. `created` is ISO 8601, `why` the reason it waits, if it does."""

    name: str
    node: str
    phase: str
    why: str
    created: str


@dataclass(frozen=True)
class Row:
    """One line of the table. `seconds` is None before the task starts."""

    key: TaskKey
    task: str
    pod: str
    node: str
    state: str
    seconds: float | None
    why: str


@dataclass(frozen=True)
class Failure:
    """Why a task failed: its cause in one line and the end of its log."""

    task: str
    try_number: int
    cause: str
    log: tuple[str, ...]


class PodMemory:
    """The newest pod of each task of one run; a pod is remembered after it has gone."""

    def __init__(self, dag_id: str, run_id: str) -> None:
        self._run = {"dag-id": dag_id, "run-id": run_id}
        self.pods: dict[TaskKey, Pod] = {}

    def observe(self, found: Iterable[Json]) -> None:
        """Take in pods as the API server returns them."""
        for each in found:
            key = self._task_of(each)
            if key is None:
                continue
            pod = Pod(
                name=each["metadata"]["name"],
                node=each["spec"].get("nodeName", ""),
                phase=each.get("status", {}).get("phase", "Pending"),
                why=waiting_reason(each),
                created=each["metadata"]["creationTimestamp"],
            )
            if key not in self.pods or pod.created >= self.pods[key].created:
                self.pods[key] = pod

    def _task_of(self, pod: Json) -> TaskKey | None:
        """Annotations hold the names as they are, labels what fits into one (Airflow's pods: dag_id, ...)."""
        named = {**pod["metadata"].get("labels", {}), **pod["metadata"].get("annotations", {})}
        facts = {key.removeprefix("trainyard.dev/").replace("_", "-"): value for key, value in named.items()}
        if any(facts.get(fact) != wanted for fact, wanted in self._run.items()):
            return None
        map_index = facts.get("map-index", "none")
        return facts["task-id"], -1 if map_index == "none" else int(map_index)


class Waits:
    """Why tasks of one run wait, in the words of the triggerer (their XCom `pending`)."""

    def __init__(self, airflow: Airflow, dag_id: str, run_id: str) -> None:
        self._airflow = airflow
        self._run = (dag_id, run_id)
        self._known: dict[TaskKey, tuple[float, Json]] = {}

    def why(self, key: TaskKey) -> str:
        """Return why the task waits, in short; empty when nobody said so. Asks now and then only."""
        asked, pending = self._known.get(key, (-ASK_SECONDS, {}))
        if time.monotonic() - asked >= ASK_SECONDS:
            pending = self._ask(key)
            self._known[key] = (time.monotonic(), pending)
        return "" if pending.get("resolved") else short(str(pending.get("reason", "")))

    def long_ones(self) -> list[str]:
        """Return a line for each task that waited long, and what for."""
        asked = {key: self._ask(key) for key in self._known}
        return [
            f"{task_name(*key)} waited {wait['waited_seconds']:.0f} s: {short(wait['reason'])}"
            for key, wait in sorted(asked.items())
            if wait.get("waited_seconds", 0) >= LONG_WAIT_SECONDS and wait["reason"]
        ]

    def _ask(self, key: TaskKey) -> Json:
        task_id, map_index = key
        found = self._airflow.xcom(*self._run, task_id, "pending", map_index)
        return found if isinstance(found, dict) else {}


def task_name(task_id: str, map_index: int) -> str:
    """Write a task instance as people do: `train`, `trial[3]`."""
    return task_id if map_index < 0 else f"{task_id}[{map_index}]"


def short(reason: str) -> str:
    """Drop the scheduler's own words, which follow in brackets."""
    return reason.partition(" (")[0]


def follow(airflow: Airflow, kube: Kube, dag_id: str, run_id: str, console: Console) -> str:
    """Show the run until it ends and return its final state, `success` or `failed`."""
    order = airflow.tasks(dag_id)
    memory = PodMemory(dag_id, run_id)
    waits = Waits(airflow, dag_id, run_id)

    def look() -> tuple[str, list[Row]]:
        state = str(airflow.dag_run(dag_id, run_id)["state"])
        for path, selector in POD_SOURCES:
            memory.observe(kube.items(path, labelSelector=selector))
        now = datetime.now(UTC)
        rows = make_rows(order, airflow.task_instances(dag_id, run_id), memory.pods, now)
        return state, [_with_triggerer(with_wait(row, waits), kube) for row in rows]

    show = _show_live if console.is_terminal else _show_lines
    state = show(look, f"{dag_id} {run_id}", console)
    for each in waits.long_ones():
        console.print(each, markup=False, highlight=False, soft_wrap=True)
    return state


def with_wait(row: Row, waits: Waits) -> Row:
    """A task whose pod waits, or may not even be made, says why in the triggerer's words."""
    if row.state not in ("deferred", "pending") or (row.seconds or 0) < ASK_SECONDS:
        return row
    return replace(row, why=waits.why(row.key) or row.why)


def _show_live(look: Any, title: str, console: Console) -> str:
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while True:
            state, rows = look()
            live.update(render(rows, f"{title}: {state}"))
            if state in FINAL_RUN_STATES:
                break
            time.sleep(POLL_SECONDS)
    # A stage's progress line around it takes everything live away with it: the last table is to stay.
    console.print(render(rows, f"{title}: {state}"))
    return str(state)


def _show_lines(look: Any, title: str, console: Console) -> str:
    started = last_print = time.monotonic()
    before: list[Row] = []
    while True:
        state, rows = look()
        now = time.monotonic()
        lines = changes(before, rows)
        if not lines and now - last_print > HEARTBEAT_SECONDS:
            lines = [line(row) for row in rows if row.state not in ("", "success")] or [f"{title}: {state}"]
        for each in lines:
            console.print(f"[{now - started:4.0f}s] {each}", markup=False, highlight=False, soft_wrap=True)
            last_print = now
        if state in FINAL_RUN_STATES:
            return str(state)
        before = rows
        time.sleep(POLL_SECONDS)


def make_rows(order: list[str], instances: list[Json], pods: dict[TaskKey, Pod], now: datetime) -> list[Row]:
    """Join Airflow's task instances with the pods that were seen, in the order in which tasks run."""
    position = {task: index for index, task in enumerate(order)}
    instances = sorted(
        instances, key=lambda each: (position.get(each["task_id"], len(order)), each["map_index"])
    )
    return [_row(each, pods.get((each["task_id"], each["map_index"])), now) for each in instances]


def _row(instance: Json, pod: Pod | None, now: datetime) -> Row:
    key = (instance["task_id"], instance["map_index"])
    row = Row(
        key=key,
        task=task_name(*key),
        pod=pod.name if pod else "",
        node=pod.node if pod else "",
        state=instance["state"] or "",
        seconds=_seconds(instance, now),
        why="",
    )
    if row.state == "deferred" and pod:
        # The task waits in the triggerer while its pod does the work: the pod's state is the one to show.
        row = replace(row, state="running" if pod.phase == "Running" else pod.phase.lower())
    if pod and row.state in ("pending", "queued", "scheduled", "running"):
        row = replace(row, why=pod.why if pod.phase == "Pending" else "")
    if row.state == "up_for_retry":
        row = replace(row, why=f"try {instance['try_number']} of {instance['max_tries'] + 1} failed")
    return row


def _with_triggerer(row: Row, kube: Kube) -> Row:
    """A task that stays deferred without a pod waits for the triggerer: say what that one is at."""
    if row.state != "deferred" or row.why or (row.seconds or 0) < TRIGGERER_SECONDS:
        return row
    pods = kube.items(f"/api/v1/namespaces/{release.NAMESPACE}/pods", labelSelector="component=triggerer")
    problems = [reason for pod in pods if (reason := waiting_reason(pod))]
    return replace(row, why=f"the triggerer is not ready: {problems[0]}" if problems else "")


def _seconds(instance: Json, now: datetime) -> float | None:
    if not instance["start_date"]:
        return None
    start = datetime.fromisoformat(instance["start_date"])
    end = datetime.fromisoformat(instance["end_date"]) if instance["end_date"] else now
    return max(0.0, (end - start).total_seconds())


def render(rows: list[Row], title: str) -> Table:
    """Draw the table."""
    table = Table(title=title, title_justify="left", expand=False)
    for column in ("task", "pod", "node", "state"):
        table.add_column(column, overflow="fold")
    table.add_column("seconds", justify="right")
    for row in rows:
        style = STATE_STYLES.get(row.state, "dim" if not row.state else "")
        state = f"{row.state}: {row.why}" if row.why else row.state
        seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
        table.add_row(row.task, row.pod, row.node, f"[{style}]{state}[/]" if style else state, seconds)
    return table


def line(row: Row) -> str:
    """Write a row as one plain line."""
    where = " on ".join(filter(None, (row.pod, row.node)))
    seconds = "" if row.seconds is None else f"{row.seconds:.0f} s"
    return "  ".join(filter(None, (f"{row.task:<12}", f"{row.state:<8}", seconds, where, row.why)))


def changes(before: list[Row], after: list[Row]) -> list[str]:
    """Return a line for each row in which more than the seconds changed; untouched tasks give none."""
    known = {row.task: replace(row, seconds=None) for row in before}
    return [line(row) for row in after if row.state and known.get(row.task) != replace(row, seconds=None)]


def failures(airflow: Airflow, dag_id: str, run_id: str) -> list[Failure]:
    """Return the failed tasks of a run with their causes, in Airflow's words."""
    return [
        _failure(airflow, each)
        for each in airflow.task_instances(dag_id, run_id)
        if each["state"] == "failed"
    ]


def _failure(airflow: Airflow, instance: Json) -> Failure:
    task_id, map_index, try_number = instance["task_id"], instance["map_index"], instance["try_number"]
    messages = airflow.log(instance["dag_id"], instance["dag_run_id"], task_id, try_number, map_index)
    task = task_name(task_id, map_index)
    lines = [message_line(each) for each in messages if not each["event"].startswith("::")]
    return Failure(task, try_number, cause(messages), tuple(lines[-LOG_LINES:]))


def cause(messages: list[Json]) -> str:
    """Return the reason that a task's log gives for its failure: its last error, exception included."""
    for message in reversed(messages):
        details = message.get("error_detail") or []
        if details:
            return _exception(details[-1])
        if message.get("level") in ("error", "critical"):
            return str(message["event"])
    return "the log names no cause" if messages else "there is no log"


def _exception(detail: Json) -> str:
    return f"{detail.get('exc_type')}: {detail.get('exc_value')}"


def message_line(message: Json) -> str:
    """Write a log message as one line: time, level, text."""
    clock = (message.get("timestamp") or "")[11:19]
    level = (message.get("level") or "").upper()
    errors = message.get("error_detail") or []
    details = "; ".join(map(_exception, errors))
    return " ".join(filter(None, (clock, level, str(message["event"]), details)))
