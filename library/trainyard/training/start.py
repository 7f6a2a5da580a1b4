"""The start of one attempt: its Job is made, admitted to a GPU, and all its pods run.

A queue admits a gang whole. Without one, some of its pods may hold GPUs while others find none: that it waits
so counts as its start, which has the shorter limit, for two such gangs may wait for each other.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from trainyard.failures import Cause
from trainyard.kube.client import KubeError
from trainyard.kube.status import Pod, condition, container_status, scheduled_at
from trainyard.training import job, kueue, outcomes
from trainyard.training.attempt import Attempt
from trainyard.training.attempt_pods import POLL_SECONDS, AttemptPods
from trainyard.training.gang import GangStatus
from trainyard.training.leftovers import has_ended
from trainyard.training.outcomes import Outcome
from trainyard.training.pending import Pending, WaitKind, fits_no_node, from_quota, is_refusal, why_pending
from trainyard.training.pod import build_pod
from trainyard.training.shared import Shared
from trainyard.training.waiting import StartFailures, WaitingTime

PENDING_POLL_SECONDS = 10  # how often waiting pods are read, in addition to the watch
QUEUE_POLL_SECONDS = 180  # how often the place in Kueue's queue is told again, in addition to the watch
UNCLEAR_POLL_SECONDS = (
    10,
    30,
)  # when a queue that never admits is looked at again: quotas change
TOO_LARGE_SECONDS = 120  # how long an autoscaler may think about a pod that no node has the memory for


class AttemptEnded(Exception):
    """The attempt has ended although its pods have not."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.outcome = Outcome(cause, message)


class GpuTimeout(Exception):
    """No GPU was free in time; what waited for one is deleted."""


class Start:
    """Starts `attempt`, whose are `pods`. `is_alone`: an older release has made its pod, without a Job."""

    def __init__(self, shared: Shared, attempt: Attempt, pods: AttemptPods, *, is_alone: bool) -> None:
        self.waiting_time = WaitingTime()
        self._shared, self._kube, self._log = shared, shared.kube, shared.log
        self._attempt = attempt
        self._pods = pods
        self._is_alone = is_alone
        self._asked = shared.platform.pool(attempt.gpu_pool) if attempt.gpu_pool else None
        # Of a list of pools, the one that Kueue has chosen while the Job is admitted.
        self._pool = self._asked
        # The LocalQueue that admits the attempt; "" if none does.
        self.queue = self._pool.queue if self._pool else ""
        team = shared.platform.team_of(shared.task.dag_id)
        self._team = team.name if team else ""
        self._job_uid = ""

    async def run(self) -> None:
        """Make the Job, and return when all its pods run, or have run."""
        await self._launch()
        await self._await_admission()
        await self._await_start()

    async def _launch(self) -> None:
        """Make the Job, and a Service for several nodes, unless they exist."""
        if self._is_alone:
            return
        shared, request, name = self._shared, self._shared.request, self._pods.name
        self._fail_if_never_admitted()
        pod = build_pod(shared.platform, request, shared.task, self._attempt)
        nodes, gpus = request.nodes, request.gpus if self._pool else 1
        waiting_seconds = shared.queue_seconds + shared.startup_seconds
        manifest = job.build_job(
            pod, name, nodes=nodes, gpus=gpus, waiting_seconds=waiting_seconds, queue=self.queue
        )
        try:
            made = await self._kube.create_job(manifest)
            if self._is_of_no_use(made):
                await self._pods.remove()
                made = await self._kube.create_job(manifest)
            if nodes > 1:
                await self._kube.create_service(job.build_service(made))
        except KubeError as error:
            if error.temporary:
                raise
            raise _refusal(self._attempt, error.message) from error
        self._job_uid = made["metadata"]["uid"]
        self.waiting_time.created(datetime.fromisoformat(made["metadata"]["creationTimestamp"]))
        self._log.info(
            "job %s/%s: step %s, %s%s, image %s",
            *(self._kube.namespace, name, request.step, self._attempt),
            f", {nodes} nodes" if nodes > 1 else "",
            pod["spec"]["containers"][0]["image"],
        )

    def _is_of_no_use(self, made: dict[str, Any]) -> bool:
        """Whether it was being deleted when a triggerer restarted, or waits for a queue that is no more."""
        is_stranded = kueue.is_suspended(made) and not self.queue
        return is_stranded or bool(made["metadata"].get("deletionTimestamp"))

    def _fail_if_never_admitted(self) -> None:
        """End the attempt if its queue never has so many GPUs: it would stop all who wait behind it."""
        pool, request = self._pool, self._shared.request
        if not pool or not self.queue:
            return
        asked, has = request.nodes * request.gpus, pool.most_gpus
        if asked > has:
            keys = ", ".join(f"gpuPools.{each.name}.nodes.max" for each in pool.choices or (pool,))
            raise AttemptEnded(
                Cause.BAD_CONFIG,
                f"it asks for {asked} GPUs of {pool.words}, which has {has} ({keys}): use fewer nodes or "
                "gpus, or another pool",
            )

    async def _await_admission(self) -> None:
        """Wait until Kueue lets the Job make its pods; report meanwhile its place in the queue."""
        if not self._pool or not self.queue or self._is_alone:
            return
        seconds: float = POLL_SECONDS
        unclear = 0  # looks at a queue that never admits
        while True:
            made = await self._kube.watch_job(
                self._pods.name, lambda each: not kueue.is_suspended(each), seconds
            )
            if made is None or not kueue.is_suspended(made):
                break
            workloads = await self._kube.workloads()
            if never := kueue.why_never(made, workloads, self._pool.words, self._team):
                if unclear == len(UNCLEAR_POLL_SECONDS):
                    raise AttemptEnded(Cause.BAD_CONFIG, never)
                unclear += 1
            else:
                unclear = 0
            await self._check_waiting(kueue.why_queued(made, workloads, self._pool.words, self._team))
            poll_seconds = UNCLEAR_POLL_SECONDS[unclear - 1] if unclear else QUEUE_POLL_SECONDS
            seconds = self._until_fallback(poll_seconds)
        if started := (made or {}).get("status", {}).get("startTime"):
            self.waiting_time.has_nodes([datetime.fromisoformat(started)])
        if made and self._pool.choices:
            self._pool = self._pool.chosen(kueue.node_selector(made))
            self._log.info("of list %s it has got %s", self._attempt.gpu_pool, self._pool.words)

    async def _await_start(self) -> None:
        """Wait until all pods run, or have run; report meanwhile what they wait for."""
        status, start_failures = self._pods.status, StartFailures()
        seconds: float = POLL_SECONDS
        told: list[str] = []
        while True:
            await self._pods.look(partial(_has_news, status, told), seconds)
            if status.all_started or status.has_ended:
                break
            told = status.waiting_messages()
            waiting = [pod for _, pod in status.not_started()]
            if failure := start_failures.check(waiting):
                raise AttemptEnded(failure.cause, failure.message)
            if status.scheduled == status.nodes:
                self.waiting_time.has_nodes(map(scheduled_at, status.pods.values()))
            await self._check_waiting(await self._why_pending())
            seconds = self._until_fallback(PENDING_POLL_SECONDS)
        if status.all_started:
            await self._announce_start()

    async def _announce_start(self) -> None:
        pods = [pod for _, pod in sorted(self._pods.status.pods.items())]
        nodes = ", ".join(pod["spec"].get("nodeName", "") for pod in pods)
        what = f"all {len(pods)} pods run" if len(pods) > 1 else f"pod {self._pods.leader} runs"
        self._log.info("%s, on %s, after %.0f s", what, nodes, self.waiting_time.seconds())
        place = {
            "pod_name": self._pods.leader,
            "pod_namespace": self._kube.namespace,
            "node_name": nodes,
            "image": container_status(pods[0]).get("imageID", ""),
            **({"gpu_pool": self._pool.name} if self._pool else {}),
        }
        await self._shared.announce({**place, "pending": self.waiting_time.resolved_xcom(self._pods.leader)})

    async def _why_pending(self) -> Pending:
        """Why the attempt waits: the reason of its first pod without a node, or why pods are missing."""
        status, pool = self._pods.status, self._pool
        name, resource = (pool.name, pool.resource_name) if pool else (None, "")
        if len(status.pods) < status.nodes:
            pending = await self._why_not_created(resource)
        else:
            rank, pod = status.not_started()[0]
            events = await self._kube.events(pod["metadata"]["name"])
            self._fail_if_too_large(pod, events)
            pending = why_pending(pod, events, pool=name, resource=resource)
            if pool and self.queue:
                pending = kueue.but_admitted(pending, pool.name)
            if status.nodes > 1:
                pending = replace(pending, reason=f"rank {rank}: {pending.reason}")
        if status.nodes == 1:
            return pending
        scheduled = f"{status.scheduled} of {status.nodes} pods have a node"
        return replace(pending, reason=f"{scheduled}; {pending.reason}")

    async def _why_not_created(self, resource: str) -> Pending:
        """Why the Job has not made all its pods. Ends the attempt if it never will."""
        made = await self._kube.job(self._pods.name)
        if made is None or has_ended(made):
            told = condition(made or {}, "Failed").get("message", "")
            raise AttemptEnded(Cause.PREEMPTED, f"the Job was ended before its pods ran: {told}".strip(": "))
        events = await self._kube.events(self._pods.name, kind="Job")
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
        if self._attempt.memory_factor == 1 or self.waiting_time.seconds_since_created() < TOO_LARGE_SECONDS:
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
        if queues and not self._pods.status.partly_scheduled:
            self.waiting_time.queues()
            waited, max_seconds = self.waiting_time.seconds(), self._shared.queue_seconds
        else:
            waited, max_seconds = self.waiting_time.seconds_starting(), self._shared.startup_seconds
        if self.waiting_time.should_report(pending):
            self._log.info("waiting: %s", pending.reason)
            await self._shared.announce({"pending": self.waiting_time.pending_xcom(self._pods.leader)})
        falls_back = self._shared.plan.fallback and self._pool and pending.lacks_gpu
        if falls_back and self.waiting_time.seconds() >= self._shared.plan.fallback_after_seconds:
            if await self._give_up_gpu():
                raise GpuTimeout
        elif waited > max_seconds:
            cause = Cause.UNSCHEDULABLE
            if pending.kind is WaitKind.IMAGE:
                image = self._shared.request.image or self._shared.platform.training.image
                cause = Cause.TEMPORARY if outcomes.is_transient(pending.reason, image) else Cause.IMAGE
            raise AttemptEnded(cause, f"not started within {max_seconds:.0f} s: {pending.reason}")

    async def _give_up_gpu(self) -> bool:
        """Delete the Job, unless its pod has got a node at this moment; return whether that was done."""
        pod = self._pods.status.pods.get(0)
        if pod and not await self._kube.delete_if_unchanged(pod):
            return False
        if self.queue and not pod and not await self._leave_queue():
            return False
        await self._pods.remove()
        return True

    async def _leave_queue(self) -> bool:
        """Delete the Job, unless Kueue has admitted it at this moment; return whether that was done."""
        made = await self._kube.job(self._pods.name)
        if made is None:
            return True
        return kueue.is_suspended(made) and await self._kube.delete_job_if_unchanged(made)

    def _until_fallback(self, seconds: float) -> float:
        """So many seconds, or fewer if a CPU takes over before."""
        return min(seconds, max(1, self._shared.plan.fallback_after_seconds - self.waiting_time.seconds()))

    def begin_again(self) -> None:
        """Make ready for another start of the same Job, which has been preempted."""
        self._pool = self._asked
        if self._pods.status.all_started:
            self.waiting_time = WaitingTime()


def _has_news(status: GangStatus, told: list[str]) -> bool:
    """Whether the pods have started or ended, or wait for something else than was told."""
    return status.all_started or status.has_ended or bool(told and status.waiting_messages() != told)


def _refusal(attempt: Attempt, message: str) -> AttemptEnded:
    """The end of an attempt whose pod the API server refused."""
    if attempt.memory_factor > 1:
        return AttemptEnded(Cause.OOM, f"out of memory, and a pod with more was refused: {message}")
    return AttemptEnded(Cause.BAD_CONFIG, f"the pod was refused: {message}")
