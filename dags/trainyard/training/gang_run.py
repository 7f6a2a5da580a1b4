"""One try of a task that trains on several nodes at once: as `PodRun`, with a gang in place of the pod.

All pods run or none does. A gang of which some pods hold GPUs while others find none is taken down and made
again later, so that two of them never wait for each other. One pod that ends badly or is taken away ends the
attempt, and the next begins when no pod of it is left.
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
from trainyard.kube.logs import readable
from trainyard.kube.status import event_line
from trainyard.naming import LABEL_PREFIX
from trainyard.training import gang, outcomes
from trainyard.training.attempt import Attempt
from trainyard.training.gang import Gang
from trainyard.training.outcomes import Action, Outcome
from trainyard.training.pending import Pending, Wait, from_quota, waiting_kind, why_pending
from trainyard.training.pod import GRACE_SECONDS, RequestError, build_pod
from trainyard.training.pod_run import FIRST_LOOK_SECONDS, LAST_LINES, Over, PodRun, Waits

# How long a pod that was told to end may take before its node counts as lost.
END_SECONDS = GRACE_SECONDS + outcomes.LOST_AFTER_SECONDS
TAKE_DOWN_SECONDS = 1  # how often to look whether a deleted Job is gone


class _HalfStarted(Exception):
    """Some pods held GPUs for too long while others found none."""


class GangRun(PodRun):
    """Runs `request` for `task` on `request.nodes` nodes at once; arguments as for `PodRun`."""

    kube: JobKube

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.plan.fallback:
            raise RequestError(
                f"nodes={self.request.nodes} with fallback={self.plan.fallback!r}: a CPU does not stand in "
                "for several nodes; use nodes=1, or no fallback"
            )
        self._gang, self._told_by, self._uid = Gang(self.request.nodes), 0, ""

    def failure(self, outcome: Outcome) -> dict[str, Any]:
        """What people need to know of a failed run; the pod is the one that the message is about."""
        pod = self._gang.pods.get(self._told_by)
        where = {"pod": pod["metadata"]["name"], "node": pod["spec"].get("nodeName", "")} if pod else {}
        return {**super().failure(outcome), **where}

    @property
    def _name(self) -> str:
        return gang.job_name(self.task, self._attempt.number, self.request.nodes)

    async def _take_over(self) -> None:
        """Remove gangs of earlier tries, and go on with the newest attempt of this one, if there is any."""
        for job in await self.kube.jobs(self.task.selector()):
            name = job["metadata"]["name"]
            if job["metadata"]["labels"].get(f"{LABEL_PREFIX}/try-number") != str(self.task.try_number):
                self.log.info("deleting gang %s of an earlier try", name)
                await self._take_down(name)
            elif (found := Attempt.of_pod(job)).number >= self._attempt.number:
                self._attempt = found
        await super()._take_over()

    async def _clean_up(self, *, keep: bool) -> None:
        """Delete the Jobs, and with them their pods and Services; `keep` those that make no more pods."""
        if keep and len(self._gang.pods) == self._gang.nodes:
            return
        for job in await self.kube.jobs(self.task.selector()):
            await self.kube.delete_job(job["metadata"]["name"])

    async def _run_attempt(self) -> Outcome:
        self._waits, self._node = Waits(), ""
        self._gang, self._told_by = Gang(self.request.nodes), 0
        try:
            await self._assemble()
            await self._follow_all()
            # Two gangs must never write the same checkpoints; and what ends last may know best why.
            if not self._gang.done:
                await self._end_all()
            outcome, self._told_by = self._gang.conclude()
        except Over as over:
            outcome = over.outcome
            await self._end_all()
        if outcome.action is not Action.SUCCEED:
            await self._explain()
        return outcome

    async def _assemble(self) -> None:
        """Have all pods run at once, however often that takes to try."""
        while True:
            await self._launch()
            try:
                return await self._await_all()
            except _HalfStarted as half:
                pause = random.uniform(0.2, 1) * gang.hold_seconds(self.startup_seconds)
                self.log.warning("%s: the gang gives back what it holds, again in %.0f s", half, pause)
                await self._take_down(self._name)
                self._gang = Gang(self.request.nodes)
                await asyncio.sleep(pause)

    async def _launch(self) -> None:
        """Create the Job and its Service, or find them created."""
        nodes = self.request.nodes
        gpus = self.request.gpus if self._attempt.gpu_pool else 1
        pod = build_pod(self.platform, self.request, self.task, self._attempt)
        manifest = gang.build_job(
            pod, self._name, nodes=nodes, gpus=gpus, startup_seconds=self.startup_seconds
        )
        try:
            job = await self.kube.create_job(manifest)
            if job["metadata"].get("deletionTimestamp"):  # the triggerer was restarted amid taking it down
                await self._take_down(self._name)
                job = await self.kube.create_job(manifest)
            await self.kube.create_service(gang.build_service(job))
            self._uid = job["metadata"]["uid"]
        except KubeError as error:
            if error.temporary:
                raise
            raise Over(Cause.BAD_CONFIG, f"the gang was refused: {error.message}") from error
        self._waits.made(datetime.fromisoformat(job["metadata"]["creationTimestamp"]))
        self.log.info(
            "gang %s/%s: %d nodes, step %s, %s, image %s",
            *(self.kube.namespace, self._name, nodes, self.request.step, self._attempt),
            pod["spec"]["containers"][0]["image"],
        )

    async def _await_all(self) -> None:
        """Wait until all pods run; says meanwhile what they wait for."""
        hold = random.uniform(0.5, 1) * gang.hold_seconds(self.startup_seconds)
        held_since: float | None = None
        stuck = _Stuck()
        while True:
            await self._look()
            if self._gang.complete or self._gang.over:
                break
            stuck.check([pod for _, pod in self._gang.waiting()])
            pending = await self._why()
            await self._wait_on(pending, None, self._waits.seconds(), self.startup_seconds)
            held_since = (held_since or time.monotonic()) if self._gang.holds_in_vain else None
            if held_since and time.monotonic() - held_since > hold:
                raise _HalfStarted(pending.reason)
            await asyncio.sleep(FIRST_LOOK_SECONDS)
        if self._gang.complete:
            await self._tell_start()

    async def _tell_start(self) -> None:
        pods = [pod for _, pod in sorted(self._gang.pods.items())]
        self._node = ", ".join(pod["spec"].get("nodeName", "") for pod in pods)
        self.log.info("all %d pods run, on %s, after %.0f s", len(pods), self._node, self._waits.seconds())
        leader = pods[0]["metadata"]["name"]
        place = {"pod_name": leader, "pod_namespace": self.kube.namespace, "node_name": self._node}
        await self.announce({**place, "pending": self._waits.resolved(leader)})

    async def _why(self) -> Pending:
        """Why the gang waits: why its first pod without a node does, or why it has too few pods."""
        pool, resource = self._gpu()
        if len(self._gang.pods) < self._gang.nodes:
            found = await self._why_not_made(resource)
        else:
            rank, pod = self._gang.waiting()[0]
            events = await self.kube.events(pod["metadata"]["name"])
            found = why_pending(pod, events, pool=pool, resource=resource)
            found = replace(found, reason=f"rank {rank}: {found.reason}")
        placed = f"{self._gang.placed} of {self._gang.nodes} pods have a node"
        return replace(found, reason=f"{placed}; {found.reason}")

    async def _why_not_made(self, resource: str) -> Pending:
        events = await self.kube.events(self._name, kind="Job")
        # A Job of the same name that was taken down before has events too.
        own = [event for event in events if event["involvedObject"].get("uid") == self._uid]
        refusals = [event.get("message", "") for event in own if event.get("reason") == "FailedCreate"]
        if refusals and "exceeded quota" in refusals[-1]:
            return from_quota(refusals[-1], resource)
        return Pending(Wait.OTHER, refusals[-1] if refusals else "Kubernetes makes the others")

    async def _follow_all(self) -> None:
        """Copy rank 0's log until the gang is over."""
        if 0 not in self._gang.pods:
            return
        leader = asyncio.create_task(self._follow(self._gang.pods[0]["metadata"]["name"]))
        try:
            while not self._gang.over:
                await asyncio.wait([leader], timeout=FIRST_LOOK_SECONDS)
                await self._look()
            await asyncio.wait([leader], timeout=END_SECONDS)
        finally:
            leader.cancel()
            # How rank 0 ended is read off its pod, together with how the others did.
            with suppress(Over, asyncio.CancelledError):
                await leader

    async def _end_all(self) -> None:
        """Return when no pod of the attempt runs any more."""
        deadline = time.monotonic() + END_SECONDS
        await self._look()
        while left := self._gang.left():
            await self._stop(left, force=time.monotonic() > deadline)
            await asyncio.sleep(FIRST_LOOK_SECONDS)
            await self._look()

    async def _stop(self, pods: Iterable[Mapping[str, Any]], *, force: bool) -> None:
        """Tell pods to end that were not told yet; `force` forgets those which do not."""
        for pod in pods:
            if force or not pod["metadata"].get("deletionTimestamp"):
                await self.kube.delete(pod["metadata"]["name"], force=force)

    async def _take_down(self, name: str) -> None:
        """Delete a Job, and return when neither it nor any of its pods is there."""
        deadline = time.monotonic() + END_SECONDS
        await self.kube.delete_job(name)
        while await self.kube.job(name):
            await self._stop(await self.kube.find(gang.pods_of(name)), force=time.monotonic() > deadline)
            await asyncio.sleep(TAKE_DOWN_SECONDS)

    async def _explain(self) -> None:
        """Log the events of all pods, and how the logs of those end that are not rank 0."""
        self._events = []
        for rank, pod in sorted(self._gang.pods.items()):
            name = pod["metadata"]["name"]
            if rank:
                for line in await self.kube.tail(name, LAST_LINES):
                    self.log.info("rank %d: %s", rank, readable(line)[1])
            self._events += [f"rank {rank}: {event_line(e)}" for e in await self.kube.events(name)]
        for line in self._events:
            self.log.info("event: %s", line)

    async def _look(self) -> None:
        self._gang.see(await self.kube.find(gang.pods_of(self._name)))


class _Stuck:
    """Notices pods that will never start."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, Wait], float] = {}

    def check(self, pods: list[Mapping[str, Any]]) -> None:
        """Raise Over when one of the pods waits for what will not come."""
        now = time.monotonic()
        kinds = [(pod["metadata"]["uid"], waiting_kind(pod)) for pod in pods]
        self._since = {kind: self._since.get(kind, now) for kind in kinds}
        for kind, pod in zip(kinds, pods, strict=True):
            if failure := outcomes.pending_failure(pod, now - self._since[kind]):
                raise Over(failure.cause, failure.message)
