"""One try of a training task: launch or find its pod, follow it, say how it ended; no Airflow in here.

An attempt goes through launch -> await start -> follow the log -> conclude. `outcomes` says what the end
means, `Attempt.after` what the next attempt is, and `PodRun.run` launches it.
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
from trainyard.kube.logs import LogPosition, readable
from trainyard.kube.status import event_line
from trainyard.naming import LABEL_PREFIX, TaskIdentity
from trainyard.platform import Platform
from trainyard.training import outcomes
from trainyard.training.attempt import Attempt, RetryPlan
from trainyard.training.outcomes import Action, Outcome
from trainyard.training.pending import Pending, Wait, from_quota, short, waiting_kind, why_pending
from trainyard.training.pod import GRACE_SECONDS, TrainingRequest, build_pod

FIRST_LOOK_SECONDS = 2
LOOK_SECONDS = 10  # how often a waiting pod is looked at, beside being watched
QUOTA_SECONDS = 2  # how often a pod that a quota refused is tried again, beside the quota being watched
REMIND_SECONDS = 300  # how often a reason for waiting which stays the same is logged again
RELAUNCH_SECONDS = (
    2  # before the attempt after the first reclaim; doubles with each, up to MAX_BACKOFF_SECONDS
)
MAX_BACKOFF_SECONDS = 60
LAST_LINES = 20  # log lines kept for the report of a failure
LONGEST_LINE = 1000  # characters of each
# A standard logger, or Airflow's of the same methods.
Log = Any
Announce = Callable[[Mapping[str, Any]], Awaitable[None]]
Alert = Callable[[str, str, Mapping[str, Any]], Awaitable[None]]


class Over(Exception):
    """The attempt ended before its containers did."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.outcome = Outcome(cause, message)


class _NoGpu(Exception):
    """No GPU came in the time that the task gives it, and there is no pod that waits for one any more."""


class PodRun:
    """Runs `request` for `task` in pods, one at a time.

    Args:
        kube: the training namespace.
        platform: where pods may run.
        request: what to run.
        task: for whom; the pods' names and labels follow from it.
        log: gets the pod's log, why it waits and how it ended.
        plan: what follows when an attempt ends badly or gets no GPU.
        queue_seconds: how long there may be no room in the namespace's quota.
        startup_seconds: how long a pod may take to start.
        announce: called with XComs: why the pod waits, where it runs, that it fell back to a CPU.
        alert: called with a title, a text and details when people should know before the end.
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
        self._waits = Waits()

    async def run(self) -> Outcome:
        """Run attempts until one ends for good, and delete the pods."""
        await self._take_over()
        while True:
            try:
                outcome = await self._run_attempt()
            except _NoGpu:
                await self._fall_back()
                continue
            following = self._attempt.after(outcome, self.plan)
            if following is None:
                break
            pause = _pause(following) if outcome.action is Action.RELAUNCH else 0
            self.log.warning("%s: %s; %s follows in %d s", outcome.cause, outcome.message, following, pause)
            await asyncio.sleep(pause)
            self._attempt = following
        keep = outcome.action is not Action.SUCCEED and self.platform.training.keep_failed_pods
        await self._clean_up(keep=keep)
        if outcome.action is Action.ADAPT and self._attempt.ooms:
            outcome = Outcome(outcome.cause, f"{outcome.message} ({self._attempt} did not suffice)")
        return outcome

    def failure(self, outcome: Outcome) -> dict[str, Any]:
        """What people need to know of a failed run: cause, events, the log's end, and where it was."""
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
        """What the attempt is called in Kubernetes."""
        return self.task.pod_name(self._attempt.number)

    async def _take_over(self) -> None:
        """Remove pods of earlier tries, and go on with the newest attempt of this one, if there is any."""
        for pod in await self.kube.find(self.task.selector()):
            labels, name = pod["metadata"]["labels"], pod["metadata"]["name"]
            if labels.get(f"{LABEL_PREFIX}/try-number") == str(self.task.try_number):
                found = Attempt.of_pod(pod)
                if found.number >= self._attempt.number:
                    self._attempt = found
                self.log.info("found pod %s again (%s); its log follows from the beginning", name, found)
                continue
            self.log.info("deleting pod %s of an earlier try", name)
            await self.kube.delete(name)
            # Two pods must never write the same checkpoints.
            if await self.kube.wait(name, outcomes.has_ended, GRACE_SECONDS + outcomes.LOST_AFTER_SECONDS):
                await self.kube.delete(name, force=True)

    async def _clean_up(self, *, keep: bool) -> None:
        """Delete what the try leaves in Kubernetes; `keep` the pods that have ended, to be looked at."""
        for pod in await self.kube.find(self.task.selector()):
            # One that waits would some day take a GPU for nobody.
            if not keep or not outcomes.has_ended(pod):
                await self.kube.delete(pod["metadata"]["name"])

    async def _run_attempt(self) -> Outcome:
        name = self._name
        self._waits, self._node = Waits(), ""
        try:
            await self._launch()
            await self._await_start(name)
            outcome = await self._follow(name)
        except Over as over:
            outcome = over.outcome
        if outcome.action is not Action.SUCCEED:
            self._events = [event_line(event) for event in await self.kube.events(name)]
            for line in self._events:
                self.log.info("event: %s", line)
        return outcome

    async def _fall_back(self) -> None:
        """Go on with a CPU, and tell everybody."""
        given_up, self._attempt = self._attempt, self._attempt.on_cpu()
        waited = f"{self._waits.seconds():.0f} s"
        why = short(self._waits.reason)
        self.log.warning("no GPU within %s (%s): %s follows", waited, why, self._attempt)
        fallback = {"to": "cpu", "pool": given_up.gpu_pool, "waited_seconds": round(self._waits.seconds())}
        await self.announce({"fallback": {**fallback, "reason": self._waits.reason}})
        await self.alert(
            f"{self.task.dag_id}.{self.task.task_id} goes on without a GPU",
            f"No GPU of pool {given_up.gpu_pool} within {waited}: {why}. It now runs on a CPU, with "
            f"batches in {self._attempt.batch_divisor} parts.",
            fallback,
        )

    async def _launch(self) -> None:
        """Create the pod, or find it created. Waits for room in the namespace's quota."""
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
                    raise _refused(attempt, error) from error
                pending = from_quota(error.message, self._gpu()[1])
                await self._wait_on(pending, None, self._waits.seconds(), self.queue_seconds)
                await self.kube.quota_change(QUOTA_SECONDS)
                await asyncio.sleep(random.uniform(0, 0.3))  # others wait for the same GPU
        self._waits.made(datetime.fromisoformat(pod["metadata"]["creationTimestamp"]))
        self.log.info(
            "pod %s/%s: step %s, %s, image %s",
            *(self.kube.namespace, pod["metadata"]["name"], self.request.step, attempt),
            pod["spec"]["containers"][0]["image"],
        )

    async def _await_start(self, name: str) -> None:
        """Wait until the container runs, or has run; says meanwhile what it waits for."""
        kind, since, seen = None, time.monotonic(), ""
        look: float = FIRST_LOOK_SECONDS

        def has_news(pod: Mapping[str, Any]) -> bool:
            return outcomes.has_started(pod) or (bool(seen) and outcomes.waiting_message(pod) != seen)

        while True:
            pod = await self.kube.wait(name, has_news, look)
            if pod is None:
                raise Over(Cause.PREEMPTED, "the pod was deleted before it started")
            if outcomes.has_started(pod):
                break
            await self._give_up_if_lost(pod)
            seen = outcomes.waiting_message(pod)
            if waiting_kind(pod) != kind:
                kind, since = waiting_kind(pod), time.monotonic()
            if failure := outcomes.pending_failure(pod, time.monotonic() - since):
                raise Over(failure.cause, failure.message)
            pool, resource = self._gpu()
            pending = why_pending(pod, await self.kube.events(name), pool=pool, resource=resource)
            await self._wait_on(pending, pod, self._waits.seconds_since_made(), self.startup_seconds)
            look = min(LOOK_SECONDS, max(1, self.plan.fallback_after_seconds - self._waits.seconds()))
        self._node = pod["spec"].get("nodeName", "")
        self.log.info("pod %s started on node %s after %.0f s", name, self._node, self._waits.seconds())
        place = {"pod_name": name, "pod_namespace": self.kube.namespace, "node_name": self._node}
        await self.announce({**place, "pending": self._waits.resolved(name)})

    async def _wait_on(
        self, pending: Pending, pod: dict[str, Any] | None, waited: float, at_most: float
    ) -> None:
        """Tell why the attempt waits; ends it when it has `waited` longer than `at_most` seconds."""
        name = self._name
        if self._waits.is_news(pending):
            self.log.info("waiting: %s", pending.reason)
            await self.announce({"pending": self._waits.now(name)})
        falls_back = self.plan.fallback and self._attempt.gpu_pool and pending.lacks_gpu
        if falls_back and self._waits.seconds() >= self.plan.fallback_after_seconds:
            # The scheduler may give it a GPU at this very moment: then it has changed, and stays.
            if pod is None or await self.kube.delete_unchanged(pod):
                raise _NoGpu
        elif waited > at_most:
            cause = Cause.IMAGE if pending.kind is Wait.IMAGE else Cause.UNSCHEDULABLE
            raise Over(cause, f"not started within {at_most:.0f} s: {pending.reason}")

    def _gpu(self) -> tuple[str | None, str]:
        """The attempt's GPU pool and what a GPU is called there."""
        pool = self._attempt.gpu_pool
        return pool, self.platform.pool(pool).resource_name if pool else ""

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
            raise Over(Cause.PREEMPTED, f"node {node} does not answer; its pod {name} was given up")

    def _copy(self, line: str) -> None:
        level, text = readable(line)
        self.last_lines.append(text[:LONGEST_LINE])
        self.log.log(level, "%s", text)


class Waits:
    """How long an attempt has waited, and for what."""

    def __init__(self) -> None:
        self.reason = ""
        self._began = self._made = datetime.now(UTC)
        self._kind = Wait.START
        self._told, self._told_at = Pending(Wait.START, ""), 0.0

    def made(self, moment: datetime) -> None:
        """Its pod was made then, so it has waited since `moment` at least."""
        self._made = moment
        self._began = min(self._began, moment)

    def seconds(self) -> float:
        """How long so far."""
        return (datetime.now(UTC) - self._began).total_seconds()

    def seconds_since_made(self) -> float:
        """How long its pod has waited so far."""
        return (datetime.now(UTC) - self._made).total_seconds()

    def is_news(self, pending: Pending) -> bool:
        """Note the reason; whether to tell it: when it changes, and now and then while it does not."""
        now = time.monotonic()
        # An image that is not there is tried again and again, in alternating words.
        same = pending.reason == self._told.reason or pending.kind is self._told.kind is Wait.IMAGE
        if same and now - self._told_at < REMIND_SECONDS:
            return False
        self._told, self._told_at = pending, now
        # A node that prepares the pod is the end of waiting: keep what came before.
        if pending.kind is not Wait.START or self._kind is Wait.START:
            self._kind, self.reason = pending.kind, pending.reason
        return True

    def now(self, pod: str) -> dict[str, Any]:
        """The XCom `pending` of a pod that waits."""
        since = self._began.isoformat(timespec="seconds")
        return {"kind": str(self._kind), "reason": self.reason, "since": since, "pod": pod, "resolved": False}

    def resolved(self, pod: str) -> dict[str, Any]:
        """The XCom `pending` of a pod that has started."""
        return {**self.now(pod), "resolved": True, "waited_seconds": round(self.seconds(), 1)}


def _pause(attempt: Attempt) -> float:
    """Seconds before an attempt that follows a reclaim."""
    return float(min(RELAUNCH_SECONDS * 2 ** (attempt.reclaims - 1), MAX_BACKOFF_SECONDS))


def _refused(attempt: Attempt, error: KubeError) -> Over:
    """The end of an attempt whose pod the API server does not take."""
    if attempt.memory_factor > 1:
        return Over(Cause.OOM, f"out of memory, and a pod with more was refused: {error.message}")
    return Over(Cause.BAD_CONFIG, f"the pod was refused: {error.message}")
