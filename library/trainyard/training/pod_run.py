"""One try of a training task, independent of Airflow: launch or find its pod, follow it, return the outcome.

The phases of an attempt are launch, await start, follow the log. `outcomes` derives the outcome from the pod,
`Attempt.after` the next attempt from the outcome, and `PodRun.run` launches it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from trainyard.failures import Cause
from trainyard.kube.client import Kube, KubeError
from trainyard.kube.logs import LogPosition, parse_log_line
from trainyard.kube.status import event_line, scheduled_at
from trainyard.naming import TaskIdentity
from trainyard.platform import Platform
from trainyard.training import outcomes
from trainyard.training.attempt import Attempt, RetryPlan
from trainyard.training.outcomes import Action, Outcome
from trainyard.training.pending import (
    Pending,
    WaitKind,
    fits_no_node,
    from_quota,
    short_reason,
    waiting_kind,
    why_pending,
)
from trainyard.training.pod import GRACE_SECONDS, TrainingRequest, build_pod

POLL_SECONDS = 2
PENDING_POLL_SECONDS = 10  # how often a waiting pod is read, in addition to the watch
QUOTA_POLL_SECONDS = 2  # how often a pod that exceeds the quota is tried again, in addition to the watch
TOO_LARGE_SECONDS = 120  # how long an autoscaler may think about a pod that no node has the memory for
REMIND_SECONDS = 300  # how often an unchanged reason for waiting is logged again
RELAUNCH_SECONDS = 2  # pause after the first reclaim; doubles with each one
MAX_BACKOFF_SECONDS = 60
EXPLAIN_SECONDS = 5  # how long to wait for what killed a container
LAST_LINES = 20  # log lines kept for the report of a failure
MAX_LINE_LENGTH = 1000
Log = Any  # a standard logger, or Airflow's with the same methods
Announce = Callable[[Mapping[str, Any]], Awaitable[None]]
Alert = Callable[[str, str, Mapping[str, Any]], Awaitable[None]]


class AttemptEnded(Exception):
    """The attempt has ended although its pods have not."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.outcome = Outcome(cause, message)


class _GpuTimeout(Exception):
    """No GPU was free in time; the pod that waited for one is deleted."""


class PodRun:
    """Runs `request` for `task` in pods, one at a time.

    Args:
        kube: client of the training namespace.
        platform: where pods may run.
        request: what to run.
        task: the try of the task; the pods' names and labels follow from it.
        log: receives the pod's log, why it waits and how it ended.
        plan: which attempts may follow after a failure or for want of a GPU.
        queue_seconds: how long it may wait for the namespace's quota and for a GPU.
        startup_seconds: how long a pod may take to start, from when it needs to wait for neither.
        announce: called with XComs: why the pod waits, where it runs, that it fell back to a CPU.
        alert: called with a title, a text and details to alert people before the end.
    """

    def __init__(
        self,
        kube: Kube,
        platform: Platform,
        request: TrainingRequest,
        task: TaskIdentity,
        log: Log,
        *,
        plan: RetryPlan,
        queue_seconds: int,
        startup_seconds: int,
        announce: Announce,
        alert: Alert,
    ) -> None:
        self.kube = kube
        self.platform = platform
        self.request = request
        self.task = task
        self.log = log
        self.plan = plan
        self.queue_seconds = queue_seconds
        self.startup_seconds = startup_seconds
        self.announce = announce
        self.alert = alert
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._attempt = Attempt(gpu_pool=request.gpu_pool)
        self._events: list[str] = []
        self._node = ""
        self._waiting_time = WaitingTime()

    async def run(self) -> Outcome:
        """Run attempts until no other follows.

        All pods stay, so that a restarted triggerer finds out the same: see `leftovers`.
        """
        await self._reattach()
        while True:
            try:
                outcome = await self._run_attempt()
            except _GpuTimeout:
                await self._fall_back()
                continue
            next_attempt = self._attempt.after(outcome, self.plan)
            if next_attempt is None:
                break
            pause = _backoff_seconds(next_attempt) if outcome.action is Action.RELAUNCH else 0
            self.log.warning(
                "%s: %s; %s follows in %d s", outcome.cause, outcome.message, next_attempt, pause
            )
            await asyncio.sleep(pause)
            self._attempt = next_attempt
        if outcome.action is Action.ADAPT and self._attempt.ooms:
            outcome = Outcome(outcome.cause, f"{outcome.message} ({self._attempt} did not suffice)")
        return outcome

    def failure(self, outcome: Outcome) -> dict[str, Any]:
        """The details of a failed run: cause, events, the log's last lines, pod and node."""
        return {
            "cause": str(outcome.cause),
            "message": outcome.message,
            "events": list(self._events),
            "log": list(self.last_lines),
            "pod": self._name,
            "node": self._node,
            "attempts": self._attempt.number,
        }

    @property
    def _name(self) -> str:
        """The name of the attempt's object in Kubernetes."""
        return self.task.pod_name(self._attempt.number)

    async def _reattach(self) -> None:
        """Delete pods of earlier tries, and continue with the newest attempt of this try, if any."""
        for pod in await self.kube.find(self.task.selector()):
            name = pod["metadata"]["name"]
            if self.task.has_made(pod["metadata"]["labels"]):
                found = Attempt.of_pod(pod)
                if found.number >= self._attempt.number:
                    self._attempt = found
                self.log.info("reattached to pod %s (%s); its log follows from the beginning", name, found)
                continue
            self.log.info("deleting pod %s of an earlier try", name)
            await self.kube.delete(name)
            # Two pods must never write the same checkpoints, and a run that was deleted and made again has
            # pods of the same names.
            if await self.kube.wait(name, lambda _: False, GRACE_SECONDS + outcomes.LOST_AFTER_SECONDS):
                await self.kube.delete(name, force=True)

    async def _run_attempt(self) -> Outcome:
        name = self._name
        self._waiting_time, self._node = WaitingTime(), ""
        try:
            await self._launch()
            await self._await_start(name)
            outcome = await self._follow(name)
        except AttemptEnded as ended:
            outcome = ended.outcome
        if outcome.action is not Action.SUCCEED:
            self._events = [event_line(event) for event in await self.kube.events(name)]
            for line in self._events:
                self.log.info("event: %s", line)
        return outcome

    async def _fall_back(self) -> None:
        """Continue on a CPU; announce it and send an alert."""
        gpu_attempt, self._attempt = self._attempt, self._attempt.on_cpu()
        seconds, reason = self._waiting_time.seconds(), self._waiting_time.reason
        waited, why = f"{seconds:.0f} s", short_reason(reason)
        self.log.warning("no GPU within %s (%s): %s follows", waited, why, self._attempt)
        fallback = {"to": "cpu", "pool": gpu_attempt.gpu_pool, "waited_seconds": round(seconds)}
        await self.announce({"fallback": {**fallback, "reason": reason}})
        await self.alert(
            f"{self.task.dag_id}.{self.task.task_id} continues without a GPU",
            f"No GPU of pool {gpu_attempt.gpu_pool} within {waited}: {why}. It now runs on a CPU, with "
            f"batches in {self._attempt.batch_divisor} parts.",
            fallback,
        )

    async def _launch(self) -> None:
        """Create the pod, unless it exists. Wait while the namespace's quota is exceeded."""
        attempt = self._attempt
        manifest = build_pod(self.platform, self.request, self.task, attempt)
        while True:
            try:
                pod = await self.kube.create(manifest)
                break
            except KubeError as error:
                if "exceeded quota" not in error.message:
                    if error.temporary:
                        raise
                    raise _refusal(attempt, error) from error
                pending = from_quota(error.message, self._gpu()[1])
                await self._check_waiting(pending, None)
                await self.kube.wait_for_quota_change(QUOTA_POLL_SECONDS)
                await asyncio.sleep(random.uniform(0, 0.3))  # other tasks wait for the same GPU
        self._waiting_time.pod_created(datetime.fromisoformat(pod["metadata"]["creationTimestamp"]))
        self.log.info(
            "pod %s/%s: step %s, %s, image %s",
            *(self.kube.namespace, pod["metadata"]["name"], self.request.step, attempt),
            pod["spec"]["containers"][0]["image"],
        )

    async def _await_start(self, name: str) -> None:
        """Wait until the container runs, or has run; report meanwhile what it waits for."""
        kind, since, message = None, time.monotonic(), ""
        poll_seconds: float = POLL_SECONDS

        def has_changed(pod: Mapping[str, Any]) -> bool:
            return outcomes.has_started(pod) or (bool(message) and outcomes.waiting_message(pod) != message)

        while True:
            pod = await self.kube.wait(name, has_changed, poll_seconds)
            if pod is None:
                raise AttemptEnded(Cause.PREEMPTED, "the pod was deleted before it started")
            if outcomes.has_started(pod):
                break
            await self._fail_if_lost(pod)
            message = outcomes.waiting_message(pod)
            if waiting_kind(pod) != kind:
                kind, since = waiting_kind(pod), time.monotonic()
            if moment := scheduled_at(pod):
                self._waiting_time.has_node(moment)
            if failure := outcomes.pending_failure(pod, time.monotonic() - since):
                raise AttemptEnded(failure.cause, failure.message)
            pool, resource = self._gpu()
            events = await self.kube.events(name)
            self._fail_if_too_large(pod, events)
            pending = why_pending(pod, events, pool=pool, resource=resource)
            await self._check_waiting(pending, pod)
            poll_seconds = min(
                PENDING_POLL_SECONDS, max(1, self.plan.fallback_after_seconds - self._waiting_time.seconds())
            )
        self._node = pod["spec"].get("nodeName", "")
        self.log.info(
            "pod %s started on node %s after %.0f s", name, self._node, self._waiting_time.seconds()
        )
        place = {"pod_name": name, "pod_namespace": self.kube.namespace, "node_name": self._node}
        await self.announce({**place, "pending": self._waiting_time.resolved_xcom(name)})

    def _fail_if_too_large(self, pod: Mapping[str, Any], events: list[dict[str, Any]]) -> None:
        """End the attempt after an out-of-memory error if no node has twice the memory."""
        if self._attempt.memory_factor == 1 or self._waiting_time.seconds_since_created() < TOO_LARGE_SECONDS:
            return
        if fits_no_node(pod, events):
            memory = pod["spec"]["containers"][0]["resources"]["requests"].get("memory")
            raise AttemptEnded(
                Cause.OOM,
                f"out of memory, and no node has the {memory} that the next attempt requests: use smaller "
                'batches (on_oom="batch"), less memory in `container_resources.requests`, or larger nodes',
            )

    async def _check_waiting(self, pending: Pending, pod: dict[str, Any] | None) -> None:
        """Report why the attempt waits; end it if it has waited for too long."""
        queues = pending.lacks_gpu or pending.kind is WaitKind.QUOTA
        if queues:
            self._waiting_time.queues()
            waited, max_seconds = self._waiting_time.seconds(), self.queue_seconds
        else:
            waited, max_seconds = self._waiting_time.seconds_starting(), self.startup_seconds
        if self._waiting_time.should_report(pending):
            self.log.info("waiting: %s", pending.reason)
            await self.announce({"pending": self._waiting_time.pending_xcom(self._name)})
        falls_back = self.plan.fallback and self._attempt.gpu_pool and pending.lacks_gpu
        if falls_back and self._waiting_time.seconds() >= self.plan.fallback_after_seconds:
            # If the scheduler assigns a node at this moment, the pod has changed and is not deleted.
            if pod is None or await self.kube.delete_if_unchanged(pod):
                raise _GpuTimeout
        elif waited > max_seconds:
            cause = Cause.UNSCHEDULABLE
            if pending.kind is WaitKind.IMAGE:
                image = self.request.image or self.platform.training.image
                cause = Cause.TEMPORARY if outcomes.is_transient(pending.reason, image) else Cause.IMAGE
            raise AttemptEnded(cause, f"not started within {max_seconds:.0f} s: {pending.reason}")

    def _gpu(self) -> tuple[str | None, str]:
        """The attempt's GPU pool and the resource name of its GPUs."""
        pool = self._attempt.gpu_pool
        return pool, self.platform.pool(pool).resource_name if pool else ""

    async def _follow(self, name: str) -> Outcome:
        """Copy the container's log until it ends; return the outcome."""
        position, failures = LogPosition(), 0
        last_seen: Mapping[str, Any] | None = None
        while pod := await self.kube.get(name):
            last_seen, ended = pod, outcomes.has_ended(pod)
            await self._fail_if_lost(pod)
            try:
                async for line in self.kube.log_lines(name, position):
                    self._copy_line(line)
                failures = 0
            except KubeError as error:
                failures += 1
                if ended and failures == 3:
                    self.log.warning("the rest of the pod's log cannot be read: %s", error.message)
                    return outcomes.classify(pod)
            if ended and not failures:
                return outcomes.classify(await self._explained(pod))
            await self.kube.wait(name, outcomes.has_ended, POLL_SECONDS)
        if last_seen and outcomes.has_ended(last_seen):
            return outcomes.classify(last_seen)
        return Outcome(Cause.PREEMPTED, "the pod was deleted")

    async def _explained(self, pod: dict[str, Any]) -> dict[str, Any]:
        """The pod, once the kubelet has said what killed it, or has had the time for it."""
        if not outcomes.is_unexplained(pod):
            return pod
        name = pod["metadata"]["name"]
        told = await self.kube.wait(name, lambda each: not outcomes.is_unexplained(each), EXPLAIN_SECONDS)
        return told or pod

    async def _is_lost(self, pod: Mapping[str, Any]) -> bool:
        """Whether the pod's node is gone, so that the pod will never be told that it is deleted."""
        now = datetime.now(UTC)
        if outcomes.is_lost(pod, now):
            return True
        return outcomes.may_be_lost(pod, now) and not await self.kube.node_answers(pod["metadata"]["name"])

    async def _fail_if_lost(self, pod: Mapping[str, Any]) -> None:
        if await self._is_lost(pod):
            name, node = pod["metadata"]["name"], pod["spec"].get("nodeName", "?")
            await self.kube.delete(name, force=True)
            raise AttemptEnded(Cause.PREEMPTED, f"node {node} does not respond; its pod {name} was deleted")

    def _copy_line(self, line: str) -> None:
        level, text = parse_log_line(line)
        self.last_lines.append(text[:MAX_LINE_LENGTH])
        self.log.log(level, "%s", text)


class WaitingTime:
    """How long an attempt has waited, and for what."""

    def __init__(self) -> None:
        self.reason = ""
        self._started = self._created = self._starting = datetime.now(UTC)
        self._kind = WaitKind.START
        self._reported, self._reported_at = Pending(WaitKind.START, ""), 0.0

    def pod_created(self, moment: datetime) -> None:
        """Set when the pod was created; the attempt has waited at least since then."""
        self._created = self._starting = moment
        self._started = min(self._started, moment)

    def queues(self) -> None:
        """Set that it waits for its turn: it does not start yet."""
        self._starting = datetime.now(UTC)

    def has_node(self, moment: datetime) -> None:
        """Set when the pod got its node, where it starts."""
        self._starting = max(self._starting, moment)

    def seconds(self) -> float:
        """How long the attempt has waited."""
        return (datetime.now(UTC) - self._started).total_seconds()

    def seconds_since_created(self) -> float:
        """How long its pod has waited."""
        return (datetime.now(UTC) - self._created).total_seconds()

    def seconds_starting(self) -> float:
        """How long it has been starting, without what it waited for its turn."""
        return (datetime.now(UTC) - self._starting).total_seconds()

    def should_report(self, pending: Pending) -> bool:
        """Record the reason; return whether to report it: if it changed, or after `REMIND_SECONDS`."""
        now = time.monotonic()
        # The kubelet alternates between two reasons while it retries to pull an image.
        same = (
            pending.reason == self._reported.reason or pending.kind is self._reported.kind is WaitKind.IMAGE
        )
        if same and now - self._reported_at < REMIND_SECONDS:
            return False
        self._reported, self._reported_at = pending, now
        # START means that the wait is almost over: keep the reason that came before.
        if pending.kind is not WaitKind.START or self._kind is WaitKind.START:
            self._kind, self.reason = pending.kind, pending.reason
        return True

    def pending_xcom(self, pod: str) -> dict[str, Any]:
        """The XCom `pending` of a pod that waits."""
        since = self._started.isoformat(timespec="seconds")
        return {"kind": str(self._kind), "reason": self.reason, "since": since, "pod": pod, "resolved": False}

    def resolved_xcom(self, pod: str) -> dict[str, Any]:
        """The XCom `pending` of a pod that has started."""
        return {**self.pending_xcom(pod), "resolved": True, "waited_seconds": round(self.seconds(), 1)}


def _backoff_seconds(attempt: Attempt) -> float:
    """The pause before an attempt that follows a reclaim."""
    return float(min(RELAUNCH_SECONDS * 2 ** (attempt.reclaims - 1), MAX_BACKOFF_SECONDS))


def _refusal(attempt: Attempt, error: KubeError) -> AttemptEnded:
    """The end of an attempt whose pod the API server refused."""
    if attempt.memory_factor > 1:
        return AttemptEnded(Cause.OOM, f"out of memory, and a pod with more was refused: {error.message}")
    return AttemptEnded(Cause.BAD_CONFIG, f"the pod was refused: {error.message}")
