"""One try of a training task, independent of Airflow: make or find its Job, follow it, return the outcome.

The phases of an attempt are launch, await start, follow the log. The Job has one pod, or one for each of
several nodes that train together: then all pods run or none does. `outcomes` derives the outcome from the
pods, `Attempt.after` the next attempt from the outcome, and `JobRun.run` launches it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from trainyard.failures import Cause
from trainyard.kube.client import KubeError
from trainyard.kube.jobs import JobKube
from trainyard.kube.logs import LogPosition, parse_log_line
from trainyard.kube.status import Pod, condition, event_line, has_owner, scheduled_at
from trainyard.naming import ATTEMPT, TRY_NUMBER, TaskIdentity, selector
from trainyard.platform import Platform
from trainyard.training import gang, job, outcomes
from trainyard.training.attempt import Attempt, RetryPlan
from trainyard.training.gang import GangStatus
from trainyard.training.leftovers import has_ended, is_pod
from trainyard.training.outcomes import Action, Outcome
from trainyard.training.pending import (
    Pending,
    WaitKind,
    fits_no_node,
    from_quota,
    is_refusal,
    short_reason,
    why_pending,
)
from trainyard.training.pod import RequestError, TrainingRequest, build_pod
from trainyard.training.removal import TERMINATION_SECONDS, Removal
from trainyard.training.waiting import StartFailures, WaitingTime

POLL_SECONDS = 2
PENDING_POLL_SECONDS = 10  # how often waiting pods are read, in addition to the watch
FOLLOW_SECONDS = 60  # how often pods that run are read, in addition to the watch
TOO_LARGE_SECONDS = 120  # how long an autoscaler may think about a pod that no node has the memory for
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
    """No GPU was free in time; what waited for one is deleted."""


class _PartlyScheduled(Exception):
    """Some pods held GPUs for too long while others found none."""


class JobRun:
    """Runs `request` for `task` in Jobs, one at a time.

    Args:
        kube: client of the training namespace.
        platform: where pods may run.
        request: what to run.
        task: the try of the task; the names and labels of Jobs and pods follow from it.
        log: receives the log of the pod, or of rank 0, why it waits and how it ended.
        plan: which attempts may follow after a failure or for want of a GPU.
        queue_seconds: how long it may wait for the namespace's quota and for a GPU.
        startup_seconds: how long the pods may take to start, from when they need to wait for neither.
        announce: called with XComs: why it waits, where it runs, that it fell back to a CPU.
        alert: called with a title, a text and details to alert people before the end.

    Raises:
        RequestError: the request is for several nodes, and the plan falls back to a CPU.
    """

    def __init__(
        self,
        kube: JobKube,
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
        if request.nodes > 1 and plan.fallback:
            raise RequestError(
                f"nodes={request.nodes} with fallback={plan.fallback!r}: a CPU pod cannot replace several "
                "nodes; use nodes=1, or no fallback"
            )
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
        self._removal = Removal(kube, log)
        self._alone: set[int] = set()  # attempts whose pod an older release made, without a Job
        self._begin()

    async def run(self) -> Outcome:
        """Run attempts until no other follows.

        Jobs and pods stay, so that a restarted triggerer finds out the same: see `leftovers`.
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
            # Two attempts must never write the same checkpoints.
            await self._stop_all()
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
        """The details of a failed run: cause, events, the log's last lines, the pod and its node."""
        pod = self._status.pods.get(self._deciding_rank)
        return {
            "cause": str(outcome.cause),
            "message": outcome.message,
            "events": list(self._events),
            "log": list(self.last_lines),
            "pod": pod["metadata"]["name"] if pod else self._name,
            "node": pod["spec"].get("nodeName", "") if pod else "",
            "attempts": self._attempt.number,
        }

    @property
    def _name(self) -> str:
        """The name of the attempt's Job."""
        return job.job_name(self.task, self._attempt.number, self.request.nodes)

    @property
    def _pod_name(self) -> str:
        """The name of the pod, or of rank 0's; of the Job until it has made them."""
        pod = self._status.pods.get(0)
        return str(pod["metadata"]["name"]) if pod else self._name

    def _begin(self) -> None:
        """Forget what an earlier attempt waited for, and its pods."""
        self._waiting_time = WaitingTime()
        self._status, self._deciding_rank, self._job_uid = GangStatus(self.request.nodes), 0, ""

    async def _reattach(self) -> None:
        """Delete what earlier tries have made, and continue with the newest attempt of this try, if any."""
        of_task = self.task.selector()
        for found in (*await self.kube.jobs(of_task), *await self.kube.find(of_task)):
            if has_owner(found, "Job"):
                continue
            name = found["metadata"]["name"]
            if not self.task.has_made(found["metadata"]["labels"]):
                self.log.info("deleting %s of an earlier try", name)
                await self._removal.remove(found)
                continue
            attempt = Attempt.of_pod(found)
            if attempt.number >= self._attempt.number:
                self._attempt = attempt
            if is_pod(found):
                self._alone.add(attempt.number)
            self.log.info("reattached to %s (%s); its log follows from the beginning", name, attempt)

    async def _run_attempt(self) -> Outcome:
        self._begin()
        try:
            await self._start()
            await self._follow()
            await self._await_explanation()
            outcome, self._deciding_rank = self._status.conclude()
        except AttemptEnded as ended:
            outcome = ended.outcome
        if outcome.action is not Action.SUCCEED:
            await self._collect_events()
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

    async def _start(self) -> None:
        """Make the Job, and make it again until all its pods run at once."""
        while True:
            await self._launch()
            try:
                return await self._await_start()
            except _PartlyScheduled as reason:
                pause = random.uniform(0.2, 1) * gang.hold_seconds(self.startup_seconds)
                self.log.warning("%s: the gang releases its GPUs, next try in %.0f s", reason, pause)
                await self._removal.remove_job(self._name)
                self._status = GangStatus(self.request.nodes)
                await asyncio.sleep(pause)

    async def _launch(self) -> None:
        """Make the Job, and a Service for several nodes, unless they exist."""
        if self._attempt.number in self._alone:
            return
        nodes, name = self.request.nodes, self._name
        pod = build_pod(self.platform, self.request, self.task, self._attempt)
        gpus = self.request.gpus if self._attempt.gpu_pool else 1
        waiting_seconds = self.queue_seconds + self.startup_seconds
        manifest = job.build_job(pod, name, nodes=nodes, gpus=gpus, waiting_seconds=waiting_seconds)
        try:
            made = await self.kube.create_job(manifest)
            if made["metadata"].get("deletionTimestamp"):  # the triggerer restarted while it deleted the Job
                await self._removal.remove_job(name)
                made = await self.kube.create_job(manifest)
            if nodes > 1:
                await self.kube.create_service(job.build_service(made))
        except KubeError as error:
            if error.temporary:
                raise
            raise _refusal(self._attempt, error.message) from error
        self._job_uid = made["metadata"]["uid"]
        self._waiting_time.created(datetime.fromisoformat(made["metadata"]["creationTimestamp"]))
        self.log.info(
            "job %s/%s: step %s, %s%s, image %s",
            *(self.kube.namespace, name, self.request.step, self._attempt),
            f", {nodes} nodes" if nodes > 1 else "",
            pod["spec"]["containers"][0]["image"],
        )

    async def _await_start(self) -> None:
        """Wait until all pods run, or have run; report meanwhile what they wait for."""
        status, start_failures = self._status, StartFailures()
        hold = random.uniform(0.5, 1) * gang.hold_seconds(self.startup_seconds)
        held_since: float | None = None
        seconds: float = POLL_SECONDS
        told: list[str] = []
        while True:
            await self._look(partial(_has_news, status, told), seconds)
            if status.all_started or status.has_ended:
                break
            told = status.waiting_messages()
            waiting = [pod for _, pod in status.not_started()]
            if failure := start_failures.check(waiting):
                raise AttemptEnded(failure.cause, failure.message)
            if status.scheduled == status.nodes:
                self._waiting_time.has_nodes(map(scheduled_at, status.pods.values()))
            pending = await self._why_pending()
            await self._check_waiting(pending)
            held_since = (held_since or time.monotonic()) if status.partly_scheduled else None
            if held_since and time.monotonic() - held_since > hold:
                raise _PartlyScheduled(pending.reason)
            until_fallback = self.plan.fallback_after_seconds - self._waiting_time.seconds()
            seconds = min(PENDING_POLL_SECONDS, max(1, until_fallback))
        if status.all_started:
            await self._announce_start()

    async def _announce_start(self) -> None:
        pods = [pod for _, pod in sorted(self._status.pods.items())]
        nodes = ", ".join(pod["spec"].get("nodeName", "") for pod in pods)
        what = f"all {len(pods)} pods run" if len(pods) > 1 else f"pod {self._pod_name} runs"
        self.log.info("%s, on %s, after %.0f s", what, nodes, self._waiting_time.seconds())
        place = {"pod_name": self._pod_name, "pod_namespace": self.kube.namespace, "node_name": nodes}
        await self.announce({**place, "pending": self._waiting_time.resolved_xcom(self._pod_name)})

    async def _why_pending(self) -> Pending:
        """Why the attempt waits: the reason of its first pod without a node, or why pods are missing."""
        status, (pool, resource) = self._status, self._gpu()
        if len(status.pods) < status.nodes:
            pending = await self._why_not_created(resource)
        else:
            rank, pod = status.not_started()[0]
            events = await self.kube.events(pod["metadata"]["name"])
            self._fail_if_too_large(pod, events)
            pending = why_pending(pod, events, pool=pool, resource=resource)
            if status.nodes > 1:
                pending = replace(pending, reason=f"rank {rank}: {pending.reason}")
        if status.nodes == 1:
            return pending
        scheduled = f"{status.scheduled} of {status.nodes} pods have a node"
        return replace(pending, reason=f"{scheduled}; {pending.reason}")

    async def _why_not_created(self, resource: str) -> Pending:
        """Why the Job has not made all its pods. Ends the attempt if it never will."""
        made = await self.kube.job(self._name)
        if made is None or has_ended(made):
            told = condition(made or {}, "Failed").get("message", "")
            raise AttemptEnded(Cause.PREEMPTED, f"the Job was ended before its pods ran: {told}".strip(": "))
        events = await self.kube.events(self._name, kind="Job")
        # The events of an earlier Job of the same name are listed as well.
        own = [event for event in events if event["involvedObject"].get("uid") == self._job_uid]
        failed = [event.get("message", "") for event in own if event.get("reason") == "FailedCreate"]
        refusals = [message.removeprefix("Error creating: ") for message in failed]
        if not refusals:
            return Pending(WaitKind.OTHER, "Kubernetes is creating the pods")
        if "exceeded quota" in refusals[-1]:
            return from_quota(refusals[-1], resource)
        if is_refusal(refusals[-1]):
            raise _refusal(self._attempt, refusals[-1])
        return Pending(WaitKind.OTHER, refusals[-1])

    def _fail_if_too_large(self, pod: Pod, events: list[dict[str, Any]]) -> None:
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

    async def _check_waiting(self, pending: Pending) -> None:
        """Report why the attempt waits; end it if it has waited for too long."""
        queues = pending.lacks_gpu or pending.kind is WaitKind.QUOTA
        if queues:
            self._waiting_time.queues()
            waited, max_seconds = self._waiting_time.seconds(), self.queue_seconds
        else:
            waited, max_seconds = self._waiting_time.seconds_starting(), self.startup_seconds
        if self._waiting_time.should_report(pending):
            self.log.info("waiting: %s", pending.reason)
            await self.announce({"pending": self._waiting_time.pending_xcom(self._pod_name)})
        falls_back = self.plan.fallback and self._attempt.gpu_pool and pending.lacks_gpu
        if falls_back and self._waiting_time.seconds() >= self.plan.fallback_after_seconds:
            if await self._give_up_gpu():
                raise _GpuTimeout
        elif waited > max_seconds:
            cause = Cause.UNSCHEDULABLE
            if pending.kind is WaitKind.IMAGE:
                image = self.request.image or self.platform.training.image
                cause = Cause.TEMPORARY if outcomes.is_transient(pending.reason, image) else Cause.IMAGE
            raise AttemptEnded(cause, f"not started within {max_seconds:.0f} s: {pending.reason}")

    async def _give_up_gpu(self) -> bool:
        """Delete the Job, unless its pod has got a node at this moment; return whether that was done."""
        pod = self._status.pods.get(0)
        if pod and not await self.kube.delete_if_unchanged(pod):
            return False
        await self._removal.remove_job(self._name)
        return True

    def _gpu(self) -> tuple[str | None, str]:
        """The attempt's GPU pool and the resource name of its GPUs."""
        pool = self._attempt.gpu_pool
        return pool, self.platform.pool(pool).resource_name if pool else ""

    async def _follow(self) -> None:
        """Copy the log of the pod, or of rank 0, until the attempt has ended with all its pods."""
        copying = asyncio.create_task(self._copy_log())
        try:
            while not self._status.has_ended:
                await self._look(lambda: self._status.has_ended, FOLLOW_SECONDS)
            # The others wait for a peer that never answers, and the last pod to end may know the cause.
            if not self._status.succeeded:
                await self._stop_all()
            await copying
        finally:
            copying.cancel()
            with suppress(asyncio.CancelledError):
                await copying

    async def _copy_log(self) -> None:
        """Copy the log to its end; it may be that the rest cannot be read."""
        position, failures = LogPosition(), 0
        while 0 in self._status.pods:
            ended = self._status.is_over(0)
            try:
                async for line in self.kube.log_lines(self._pod_name, position):
                    level, text = parse_log_line(line)
                    self.last_lines.append(text[:MAX_LINE_LENGTH])
                    self.log.log(level, "%s", text)
                if ended:
                    return
            except KubeError as error:
                failures += ended
                if failures == 3:
                    self.log.warning("the rest of the pod's log cannot be read: %s", error.message)
                    return
            await asyncio.sleep(POLL_SECONDS)

    async def _await_explanation(self) -> None:
        """Wait until the kubelet has said what killed a container, or has had the time for it."""

        def is_explained() -> bool:
            return not any(map(outcomes.is_unexplained, self._status.pods.values()))

        if not is_explained():
            await self._look(is_explained, EXPLAIN_SECONDS)

    async def _stop_all(self) -> None:
        """Delete the attempt's pods that run, and wait until they have ended."""
        deadline = time.monotonic() + TERMINATION_SECONDS
        await self._refresh()
        while pods := self._status.unfinished():
            await self._removal.end(pods, force=time.monotonic() > deadline)
            await self._look(lambda: not self._status.unfinished(), POLL_SECONDS)

    async def _collect_events(self) -> None:
        """Log the events of all pods and the ends of the logs of all ranks but 0, whose log was copied."""
        self._events = []
        for rank, pod in sorted(self._status.pods.items()):
            name, prefix = pod["metadata"]["name"], f"rank {rank}: " if self.request.nodes > 1 else ""
            if rank:
                for line in await self.kube.tail(name, LAST_LINES):
                    self.log.info("rank %d: %s", rank, parse_log_line(line)[1])
            self._events += [prefix + event_line(event) for event in await self.kube.events(name)]
        for line in self._events:
            self.log.info("event: %s", line)

    async def _look(self, until: Callable[[], bool], seconds: float) -> None:
        """Update the state of the pods until `until` is true, or for that many seconds."""
        if not until():
            await self._watch(until, seconds)

    async def _refresh(self) -> None:
        """Update the state of the pods."""
        await self._watch(lambda: True, 0)

    async def _watch(self, until: Callable[[], bool], seconds: float) -> None:
        attempt = str(self._attempt.number)
        # Not by the Job's name, which a pod of an older release does not have.
        labels = {**self.task.labels(), TRY_NUMBER: str(self.task.try_number), ATTEMPT: attempt}

        def see(pods: list[Pod]) -> bool:
            self._status.update(pods)
            return until()

        await self.kube.watch(selector(labels), see, seconds)


def _has_news(status: GangStatus, told: list[str]) -> bool:
    """Whether the pods have started or ended, or wait for something else than was told."""
    return status.all_started or status.has_ended or bool(told and status.waiting_messages() != told)


def _backoff_seconds(attempt: Attempt) -> float:
    """The pause before an attempt that follows a reclaim."""
    return float(min(RELAUNCH_SECONDS * 2 ** (attempt.reclaims - 1), MAX_BACKOFF_SECONDS))


def _refusal(attempt: Attempt, message: str) -> AttemptEnded:
    """The end of an attempt whose pod the API server refused."""
    if attempt.memory_factor > 1:
        return AttemptEnded(Cause.OOM, f"out of memory, and a pod with more was refused: {message}")
    return AttemptEnded(Cause.BAD_CONFIG, f"the pod was refused: {message}")
