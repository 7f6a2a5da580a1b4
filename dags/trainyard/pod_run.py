"""One try of a training task: launch or find its pod, follow it, say how it ended; no Airflow in here.

An attempt goes through launch -> await start -> follow the log -> conclude. `outcomes` says what the end
means, and `PodRun.run` launches the next attempt where that is what follows.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from trainyard import outcomes
from trainyard.kube import Kube, KubeError, LogPosition
from trainyard.naming import LABEL_PREFIX, TaskIdentity
from trainyard.outcomes import Action, Cause, Outcome
from trainyard.platform import Platform
from trainyard.pods import GRACE_SECONDS, TrainingRequest, build_pod

FIRST_LOOK_SECONDS = 2
LOOK_SECONDS = 10  # how often a waiting pod is looked at, beside being watched
REMIND_SECONDS = 300  # how often a reason for waiting which stays the same is logged again
MAX_BACKOFF_SECONDS = 60  # between two attempts
LAST_LINES = 20  # log lines kept for the report of a failure
_LEVELS = {
    "debug": logging.DEBUG,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.ERROR,
}
# A standard logger, or Airflow's of the same methods.
Log = Any
Announce = Callable[[Mapping[str, str]], Awaitable[None]]


class _Over(Exception):
    """The attempt ended before the container did."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.outcome = Outcome(cause, message)


class PodRun:
    """Runs `request` for `task` in pods, one at a time.

    Args:
        kube: the training namespace.
        platform: where pods may run.
        request: what to run.
        task: for whom; the pods' names and labels follow from it.
        log: gets the pod's log, why it waits and how it ended.
        startup_seconds: how long a pod may take to start.
        announce: called with pod name, namespace and node as soon as a container runs.
    """

    def __init__(
        self,
        kube: Kube,
        platform: Platform,
        request: TrainingRequest,
        task: TaskIdentity,
        log: Log,
        startup_seconds: int,
        announce: Announce,
    ) -> None:
        self.kube = kube
        self.platform = platform
        self.request = request
        self.task = task
        self.log = log
        self.startup_seconds = startup_seconds
        self.announce = announce
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._waiting_for = ""
        self._reported_at = 0.0

    async def run(self, max_preemptions: int) -> Outcome:
        """Run attempts until one ends for good, and delete the pods. At most 1 + `max_preemptions`."""
        attempt = await self._take_over()
        while True:
            outcome = await self._attempt(attempt)
            if outcome.action is not Action.RELAUNCH or attempt > max_preemptions:
                break
            pause = min(2**attempt, MAX_BACKOFF_SECONDS)
            attempt += 1
            self.log.warning(
                "%s: %s; attempt %d starts in %d s", outcome.cause, outcome.message, attempt, pause
            )
            await asyncio.sleep(pause)
        if outcome.action is Action.SUCCEED or not self.platform.training.keep_failed_pods:
            for pod in await self.kube.find(self.task.selector()):
                await self.kube.delete(pod["metadata"]["name"])
        return outcome

    async def _take_over(self) -> int:
        """Remove pods of earlier tries; return the attempt to go on with (1 when there is no pod yet)."""
        attempts = [1]
        for pod in await self.kube.find(self.task.selector()):
            labels, name = pod["metadata"]["labels"], pod["metadata"]["name"]
            if labels.get(f"{LABEL_PREFIX}/try-number") == str(self.task.try_number):
                self.log.info("found pod %s again; its log follows from the beginning", name)
                attempts.append(int(labels[f"{LABEL_PREFIX}/attempt"]))
                continue
            self.log.info("deleting pod %s of an earlier try", name)
            await self.kube.delete(name)
            # Two pods must never write the same checkpoints.
            if await self.kube.wait(name, outcomes.has_ended, GRACE_SECONDS + outcomes.LOST_AFTER_SECONDS):
                await self.kube.delete(name, force=True)
        return max(attempts)

    async def _attempt(self, attempt: int) -> Outcome:
        name = self.task.pod_name(attempt)
        try:
            start_by = time.monotonic() + self.startup_seconds
            await self._launch(attempt, start_by)
            await self._await_start(name, start_by)
            outcome = await self._follow(name)
        except _Over as over:
            outcome = over.outcome
        if outcome.action is not Action.SUCCEED:
            for event in await self.kube.events(name):
                self.log.info("event: %s", outcomes.event_line(event))
        return outcome

    async def _launch(self, attempt: int, start_by: float) -> None:
        """Create the pod, or find it created. Waits for room in the namespace's quota."""
        manifest = build_pod(self.platform, self.request, self.task, attempt)
        while True:
            try:
                pod = await self.kube.create(manifest)
                break
            except KubeError as error:
                if "exceeded quota" not in error.message:
                    if error.temporary:
                        raise
                    raise _Over(Cause.BAD_CONFIG, f"the pod was refused: {error.message}") from error
                self._report(f"no room in the namespace's quota: {error.message}")
                if time.monotonic() > start_by:
                    raise _Over(Cause.UNSCHEDULABLE, self._waiting_for) from error
                await asyncio.sleep(LOOK_SECONDS)
        self.log.info(
            "pod %s/%s: step %s, attempt %d, %s, image %s",
            *(self.kube.namespace, pod["metadata"]["name"], self.request.step, attempt),
            f"GPU pool {self.request.gpu_pool}" if self.request.gpu_pool else "CPU",
            pod["spec"]["containers"][0]["image"],
        )

    async def _await_start(self, name: str, start_by: float) -> None:
        """Wait until the container runs, or has run; says meanwhile what it waits for."""
        kind, since, look = "", time.monotonic(), FIRST_LOOK_SECONDS
        while True:
            pod = await self.kube.wait(name, outcomes.has_started, look)
            if pod is None:
                raise _Over(Cause.PREEMPTED, "the pod was deleted before it started")
            if outcomes.has_started(pod):
                break
            await self._give_up_if_lost(pod)
            if outcomes.waiting_kind(pod) != kind:
                kind, since = outcomes.waiting_kind(pod), time.monotonic()
            if failure := outcomes.pending_failure(pod, time.monotonic() - since):
                raise _Over(failure.cause, failure.message)
            self._report(outcomes.why_pending(pod, await self.kube.events(name)))
            if time.monotonic() > start_by:
                raise _Over(
                    Cause.UNSCHEDULABLE,
                    f"not started within {self.startup_seconds} s: {self._waiting_for}",
                )
            look = LOOK_SECONDS
        node = pod["spec"].get("nodeName", "")
        self.log.info("pod %s started on node %s", name, node)
        await self.announce({"pod_name": name, "pod_namespace": self.kube.namespace, "node_name": node})

    async def _follow(self, name: str) -> Outcome:
        """Copy the container's log until it ends; return how it ended."""
        position, failures = LogPosition(), 0
        last_seen: Mapping[str, Any] | None = None
        while pod := await self.kube.get(name):
            last_seen, ended = pod, outcomes.has_ended(pod)
            await self._give_up_if_lost(pod)
            try:
                async for line in self.kube.log_lines(name, position):
                    self._copy(line)
                failures = 0
            except KubeError as error:
                failures += 1
                if ended and failures == 3:
                    self.log.warning("the rest of the pod's log cannot be read: %s", error.message)
                    return outcomes.classify(pod)
            if ended and not failures:
                return outcomes.classify(pod)
            await self.kube.wait(name, outcomes.has_ended, FIRST_LOOK_SECONDS)
        if last_seen and outcomes.has_ended(last_seen):
            return outcomes.classify(last_seen)
        return Outcome(Cause.PREEMPTED, "the pod was deleted")

    async def _give_up_if_lost(self, pod: Mapping[str, Any]) -> None:
        if outcomes.is_lost(pod, datetime.now(UTC)):
            name, node = pod["metadata"]["name"], pod["spec"].get("nodeName", "?")
            await self.kube.delete(name, force=True)
            raise _Over(Cause.PREEMPTED, f"node {node} does not answer; its pod {name} was given up")

    def _report(self, reason: str) -> None:
        """Log why the pod waits, when that changes and now and then while it does not."""
        now = time.monotonic()
        if reason != self._waiting_for or now - self._reported_at > REMIND_SECONDS:
            self.log.info("waiting: %s", reason)
            self._waiting_for, self._reported_at = reason, now

    def _copy(self, line: str) -> None:
        level, text = readable(line)
        self.last_lines.append(text)
        self.log.log(level, "%s", text)


def readable(line: str) -> tuple[int, str]:
    """Level and text of one line of the trainer's log: JSON becomes `message key=value ...`."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        return logging.INFO, line
    fields = {k: v for k, v in record.items() if k not in ("level", "time", "timestamp", "ts", "logger")}
    names = [str(fields.pop(key)) for key in ("message", "msg", "event") if key in fields]
    message = names[0] if names else ""
    rest = " ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in fields.items())
    return _LEVELS.get(str(record.get("level", "")).lower(), logging.INFO), f"{message} {rest}".strip()
