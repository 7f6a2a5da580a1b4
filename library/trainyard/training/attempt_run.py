"""One attempt of a try: its Job is started, followed, and its outcome derived from its pods."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from http import HTTPStatus

from trainyard.kube.client import KubeError
from trainyard.kube.logs import LogPosition, parse_log_line
from trainyard.kube.status import Pod, event_line
from trainyard.training import kueue, outcomes
from trainyard.training.attempt import Attempt
from trainyard.training.attempt_pods import POLL_SECONDS, AttemptPods
from trainyard.training.leftovers import has_ended
from trainyard.training.outcomes import Action, Outcome
from trainyard.training.shared import Shared
from trainyard.training.start import AttemptEnded, Start
from trainyard.training.waiting import WaitingTime

FOLLOW_SECONDS = 60  # how often pods that run are read, in addition to the watch
EXPLAIN_SECONDS = 5  # how long to wait for what killed a container
LAST_LINES = 20  # log lines kept for the report of a failure
MAX_LINE_LENGTH = 1000


class AttemptRun:
    """Runs `attempt`.

    Args:
        shared: what all attempts of the try share.
        attempt: which one it is.
        last_lines: gets the last lines of its log.
        is_alone: whether an older release has made its pod, without a Job.
    """

    def __init__(
        self, shared: Shared, attempt: Attempt, last_lines: deque[str], *, is_alone: bool = False
    ) -> None:
        nodes = shared.request.nodes
        self.pods = AttemptPods(
            shared.kube, shared.task, attempt.number, nodes, shared.log, is_alone=is_alone
        )
        self.preemptions = 0  # by Kueue: the Job comes back, and it is no other attempt
        self.events: list[str] = []
        self._shared, self._kube, self._log = shared, shared.kube, shared.log
        self._last_lines = last_lines
        self._start = Start(shared, attempt, self.pods, is_alone=is_alone)
        self._deciding_rank = 0

    @property
    def waiting_time(self) -> WaitingTime:
        """How long it has waited to start, and for what."""
        return self._start.waiting_time

    @property
    def deciding_pod(self) -> Pod | None:
        """The pod that the outcome is about; None if there was none."""
        return self.pods.status.pods.get(self._deciding_rank)

    async def run(self) -> Outcome:
        """Run it to its end.

        Raises:
            GpuTimeout: no GPU was free in time.
            KubeError: the API server refuses it, or does not answer.
        """
        try:
            while True:
                await self._start.run()
                await self._follow()
                if not await self._is_queued_again():
                    break
            await self._await_explanation()
            outcome, self._deciding_rank = self.pods.status.conclude()
        except AttemptEnded as ended:
            outcome = ended.outcome
        if outcome.action is not Action.SUCCEED:
            await self._collect_events()
        return outcome

    async def _follow(self) -> None:
        """Copy the log of the pod, or of rank 0, until all pods have ended."""
        copying = asyncio.create_task(self._copy_log())
        try:
            while not self.pods.status.has_ended:
                await self.pods.look(lambda: self.pods.status.has_ended, FOLLOW_SECONDS)
            # The others wait for a peer that never answers, and the last pod to end may know the cause.
            if not self.pods.status.succeeded:
                await self.pods.stop()
            await copying
        finally:
            copying.cancel()
            with suppress(asyncio.CancelledError):
                await copying

    async def _copy_log(self) -> None:
        """Copy the log to its end; it may be that the rest cannot be read."""
        status = self.pods.status
        position, failures = LogPosition(), 0
        while 0 in status.pods:
            ended = status.is_over(0)
            try:
                async for line in self._kube.log_lines(self.pods.leader, position):
                    level, text = parse_log_line(line)
                    self._last_lines.append(text[:MAX_LINE_LENGTH])
                    self._log.log(level, "%s", text)
                if ended:
                    return
            except KubeError as error:
                # A deleted pod goes as soon as it has ended.
                if ended and error.status == HTTPStatus.NOT_FOUND:
                    return
                failures += ended
                if failures == 3:
                    self._log.warning("the rest of the pod's log cannot be read: %s", error.message)
                    return
            await asyncio.sleep(POLL_SECONDS)

    async def _is_queued_again(self) -> bool:
        """Whether Kueue has taken the GPUs away; then, when the old pods are gone.

        The Job says so before the first of its pods is told to end, and fails if a pod ended otherwise.
        """
        if not self._start.queue or self.pods.status.succeeded:
            return False
        while True:
            made = await self._kube.watch_job(
                self.pods.name, lambda each: kueue.is_suspended(each) or has_ended(each), POLL_SECONDS
            )
            if made is None or has_ended(made):
                return False
            if kueue.is_suspended(made) or await self.pods.are_replaced():
                break
        why = kueue.why_evicted(kueue.workload_of(made, await self._kube.workloads()) or {})
        self._log.warning(
            "%s; it goes on when it is its turn again", why or "Kueue has ended the pods of the Job"
        )
        self.preemptions += 1
        self._start.begin_again()
        await self.pods.forget()
        return True

    async def _await_explanation(self) -> None:
        """Wait until the kubelet has said what killed a container, or has had the time for it."""

        def is_explained() -> bool:
            return not any(map(outcomes.is_unexplained, self.pods.status.pods.values()))

        await self.pods.look(is_explained, EXPLAIN_SECONDS)

    async def _collect_events(self) -> None:
        """Log the events of all pods and the ends of the logs of all ranks but 0, whose log was copied."""
        for rank, pod in sorted(self.pods.status.pods.items()):
            name = pod["metadata"]["name"]
            prefix = f"rank {rank}: " if self._shared.request.nodes > 1 else ""
            if rank:
                for line in await self._kube.tail(name, LAST_LINES):
                    self._log.info("rank %d: %s", rank, parse_log_line(line)[1])
            self.events += [prefix + event_line(event) for event in await self._kube.events(name)]
        for line in self.events:
            self._log.info("event: %s", line)
