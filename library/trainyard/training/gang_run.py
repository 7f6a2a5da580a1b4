"""One try of a task that trains on several nodes at once: like `PodRun`, with a gang in place of the pod.

All pods run or none does. If some pods hold GPUs while others find none, the gang is deleted and created
again later, so that two gangs never wait for each other. If one pod fails or is deleted, the attempt ends,
and the next one starts after all its pods have ended.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from trainyard.failures import Cause
from trainyard.kube.client import KubeError
from trainyard.kube.jobs import JobKube
from trainyard.kube.logs import parse_log_line
from trainyard.kube.status import event_line, scheduled_at
from trainyard.training import gang, outcomes
from trainyard.training.attempt import Attempt
from trainyard.training.gang import GangStatus
from trainyard.training.outcomes import Action, Outcome
from trainyard.training.pending import Pending, WaitKind, from_quota, waiting_kind, why_pending
from trainyard.training.pod import GRACE_SECONDS, RequestError, build_pod
from trainyard.training.pod_run import LAST_LINES, POLL_SECONDS, AttemptEnded, PodRun, WaitingTime

# How long a deleted pod may take to end before its node counts as lost.
TERMINATION_SECONDS = GRACE_SECONDS + outcomes.LOST_AFTER_SECONDS
DELETION_POLL_SECONDS = 1  # how often to check whether a Job is deleted


class _PartlyScheduled(Exception):
    """Some pods held GPUs for too long while others found none."""


class GangRun(PodRun):
    """Runs `request` for `task` on `request.nodes` nodes at once; arguments as for `PodRun`."""

    kube: JobKube

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.plan.fallback:
            raise RequestError(
                f"nodes={self.request.nodes} with fallback={self.plan.fallback!r}: a CPU pod cannot replace "
                "several nodes; use nodes=1, or no fallback"
            )
        self._status, self._deciding_rank, self._job_uid = GangStatus(self.request.nodes), 0, ""

    def failure(self, outcome: Outcome) -> dict[str, Any]:
        """The details of a failed run; pod and node are those that the message is about."""
        pod = self._status.pods.get(self._deciding_rank)
        place = {"pod": pod["metadata"]["name"], "node": pod["spec"].get("nodeName", "")} if pod else {}
        return {**super().failure(outcome), **place}

    @property
    def _name(self) -> str:
        return gang.job_name(self.task, self._attempt.number, self.request.nodes)

    async def _reattach(self) -> None:
        """Delete gangs of earlier tries, and continue with the newest attempt of this try, if any."""
        for job in await self.kube.jobs(self.task.selector()):
            name = job["metadata"]["name"]
            if not self.task.has_made(job["metadata"]["labels"]):
                self.log.info("deleting gang %s of an earlier try", name)
                await self._delete_gang(name)
            elif (found := Attempt.of_pod(job)).number >= self._attempt.number:
                self._attempt = found
        await super()._reattach()

    async def _run_attempt(self) -> Outcome:
        self._waiting_time, self._node = WaitingTime(), ""
        self._status, self._deciding_rank = GangStatus(self.request.nodes), 0
        try:
            await self._start_gang()
            await self._follow_gang()
            # Two gangs must never write the same checkpoints, and the last pod to end may know the cause.
            if not self._status.succeeded:
                await self._stop_all()
            outcome, self._deciding_rank = self._status.conclude()
        except AttemptEnded as ended:
            outcome = ended.outcome
            await self._stop_all()
        if outcome.action is not Action.SUCCEED:
            await self._collect_events()
        return outcome

    async def _start_gang(self) -> None:
        """Create the gang again and again until all pods run at once."""
        while True:
            await self._launch()
            try:
                return await self._await_all_started()
            except _PartlyScheduled as reason:
                pause = random.uniform(0.2, 1) * gang.hold_seconds(self.startup_seconds)
                self.log.warning("%s: the gang releases its GPUs, next try in %.0f s", reason, pause)
                await self._delete_gang(self._name)
                self._status = GangStatus(self.request.nodes)
                await asyncio.sleep(pause)

    async def _launch(self) -> None:
        """Create the Job and its Service, unless they exist."""
        nodes = self.request.nodes
        gpus = self.request.gpus if self._attempt.gpu_pool else 1
        pod = build_pod(self.platform, self.request, self.task, self._attempt)
        manifest = gang.build_job(
            pod,
            self._name,
            nodes=nodes,
            gpus=gpus,
            waiting_seconds=self.queue_seconds + self.startup_seconds,
        )
        try:
            job = await self.kube.create_job(manifest)
            if job["metadata"].get("deletionTimestamp"):  # the triggerer restarted while it deleted the Job
                await self._delete_gang(self._name)
                job = await self.kube.create_job(manifest)
            await self.kube.create_service(gang.build_service(job))
            self._job_uid = job["metadata"]["uid"]
        except KubeError as error:
            if error.temporary:
                raise
            raise AttemptEnded(Cause.BAD_CONFIG, f"the gang was refused: {error.message}") from error
        self._waiting_time.pod_created(datetime.fromisoformat(job["metadata"]["creationTimestamp"]))
        self.log.info(
            "gang %s/%s: %d nodes, step %s, %s, image %s",
            *(self.kube.namespace, self._name, nodes, self.request.step, self._attempt),
            pod["spec"]["containers"][0]["image"],
        )

    async def _await_all_started(self) -> None:
        """Wait until all pods run; report meanwhile what they wait for."""
        hold = random.uniform(0.5, 1) * gang.hold_seconds(self.startup_seconds)
        held_since: float | None = None
        start_failures = _StartFailures()
        while True:
            await self._refresh()
            if self._status.all_started or self._status.has_ended:
                break
            start_failures.check([pod for _, pod in self._status.not_started()])
            if self._status.scheduled == self._status.nodes:
                moments = map(scheduled_at, self._status.pods.values())
                self._waiting_time.has_node(max(moment for moment in moments if moment))
            pending = await self._why_pending()
            await self._check_waiting(pending, None)
            held_since = (held_since or time.monotonic()) if self._status.partly_scheduled else None
            if held_since and time.monotonic() - held_since > hold:
                raise _PartlyScheduled(pending.reason)
            await asyncio.sleep(POLL_SECONDS)
        if self._status.all_started:
            await self._announce_start()

    async def _announce_start(self) -> None:
        pods = [pod for _, pod in sorted(self._status.pods.items())]
        self._node = ", ".join(pod["spec"].get("nodeName", "") for pod in pods)
        self.log.info(
            "all %d pods run, on %s, after %.0f s", len(pods), self._node, self._waiting_time.seconds()
        )
        leader = pods[0]["metadata"]["name"]
        place = {"pod_name": leader, "pod_namespace": self.kube.namespace, "node_name": self._node}
        await self.announce({**place, "pending": self._waiting_time.resolved_xcom(leader)})

    async def _why_pending(self) -> Pending:
        """Why the gang waits: the reason of its first pod without a node, or why pods are missing."""
        pool, resource = self._gpu()
        if len(self._status.pods) < self._status.nodes:
            pending = await self._why_not_created(resource)
        else:
            rank, pod = self._status.not_started()[0]
            events = await self.kube.events(pod["metadata"]["name"])
            self._fail_if_too_large(pod, events)
            pending = why_pending(pod, events, pool=pool, resource=resource)
            pending = replace(pending, reason=f"rank {rank}: {pending.reason}")
        scheduled = f"{self._status.scheduled} of {self._status.nodes} pods have a node"
        return replace(pending, reason=f"{scheduled}; {pending.reason}")

    async def _why_not_created(self, resource: str) -> Pending:
        events = await self.kube.events(self._name, kind="Job")
        # The events of an earlier Job of the same name are listed as well.
        own = [event for event in events if event["involvedObject"].get("uid") == self._job_uid]
        refusals = [event.get("message", "") for event in own if event.get("reason") == "FailedCreate"]
        if refusals and "exceeded quota" in refusals[-1]:
            return from_quota(refusals[-1], resource)
        return Pending(WaitKind.OTHER, refusals[-1] if refusals else "Kubernetes is creating the others")

    async def _follow_gang(self) -> None:
        """Copy rank 0's log until the attempt has ended."""
        if 0 not in self._status.pods:
            return
        follower = asyncio.create_task(self._follow(self._status.pods[0]["metadata"]["name"]))
        try:
            while not self._status.has_ended:
                await asyncio.wait([follower], timeout=POLL_SECONDS)
                await self._refresh()
            if self._status.has_lost_a_node:
                # The others wait for a peer that never answers, and their Job for a pod that never ends.
                await self._stop_all()
            await asyncio.wait([follower], timeout=TERMINATION_SECONDS)
        finally:
            follower.cancel()
            # `conclude` reads from all pods how they ended, rank 0 included.
            with suppress(AttemptEnded, asyncio.CancelledError):
                await follower

    async def _stop_all(self) -> None:
        """Delete the attempt's pods that run, and wait until they have ended."""
        deadline = time.monotonic() + TERMINATION_SECONDS
        await self._refresh()
        while pods := self._status.unfinished():
            await self._delete_pods(pods, force=time.monotonic() > deadline)
            await asyncio.sleep(POLL_SECONDS)
            await self._refresh()

    async def _delete_pods(self, pods: Iterable[Mapping[str, Any]], *, force: bool) -> None:
        """Delete the pods that are not being deleted; `force`, and the loss of a node, wait for no node."""
        for pod in pods:
            is_lost = force or await self._is_lost(pod)
            if is_lost or not pod["metadata"].get("deletionTimestamp"):
                await self.kube.delete(pod["metadata"]["name"], force=is_lost)

    async def _delete_gang(self, name: str) -> None:
        """Delete a Job, and wait until it and its pods no longer exist."""
        deadline = time.monotonic() + TERMINATION_SECONDS
        await self.kube.delete_job(name)
        while await self.kube.job(name):
            await self._delete_pods(
                await self.kube.find(gang.pod_selector(name)), force=time.monotonic() > deadline
            )
            await asyncio.sleep(DELETION_POLL_SECONDS)

    async def _collect_events(self) -> None:
        """Log the events of all pods and the ends of the logs of all ranks but 0, whose log was copied."""
        self._events = []
        for rank, pod in sorted(self._status.pods.items()):
            name = pod["metadata"]["name"]
            if rank:
                for line in await self.kube.tail(name, LAST_LINES):
                    self.log.info("rank %d: %s", rank, parse_log_line(line)[1])
            self._events += [f"rank {rank}: {event_line(e)}" for e in await self.kube.events(name)]
        for line in self._events:
            self.log.info("event: %s", line)

    async def _refresh(self) -> None:
        self._status.update(await self.kube.find(gang.pod_selector(self._name)))


class _StartFailures:
    """Detects pods that will never start, by how long each has waited for the same reason."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, WaitKind], float] = {}

    def check(self, pods: list[Mapping[str, Any]]) -> None:
        """Raise AttemptEnded if one of the waiting pods will never start."""
        now = time.monotonic()
        kinds = [(pod["metadata"]["uid"], waiting_kind(pod)) for pod in pods]
        self._since = {kind: self._since.get(kind, now) for kind in kinds}
        for kind, pod in zip(kinds, pods, strict=True):
            if failure := outcomes.pending_failure(pod, now - self._since[kind]):
                raise AttemptEnded(failure.cause, failure.message)
