"""One try of a training task, independent of Airflow: its attempts, one after the other.

Each attempt is a Job with one pod, or one for each of several nodes that train together. `outcomes` derives
an attempt's outcome from its pods, and `Attempt.after` the next attempt from the outcome.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from trainyard.kube.status import has_owner
from trainyard.training.attempt import Attempt
from trainyard.training.attempt_run import LAST_LINES, AttemptRun
from trainyard.training.leftovers import is_pod
from trainyard.training.outcomes import Action, Outcome
from trainyard.training.pending import short_reason
from trainyard.training.pod import RequestError
from trainyard.training.removal import Removal
from trainyard.training.shared import Shared
from trainyard.training.start import GpuTimeout

RELAUNCH_SECONDS = 2  # pause after the first reclaim; doubles with each one
MAX_BACKOFF_SECONDS = 60
Alert = Callable[[str, str, Mapping[str, Any]], Awaitable[None]]


class JobRun:
    """Runs a try in Jobs, one at a time.

    Args:
        shared: what to run, where, and what its attempts share beside.
        alert: called with a title, a text and details to alert people before the end.

    Raises:
        RequestError: the request is for several nodes, and the plan falls back to a CPU.
    """

    def __init__(self, shared: Shared, alert: Alert) -> None:
        nodes, fallback = shared.request.nodes, shared.plan.fallback
        if nodes > 1 and fallback:
            raise RequestError(
                f"nodes={nodes} with fallback={fallback!r}: a CPU pod cannot replace several nodes; use "
                "nodes=1, or no fallback"
            )
        self._shared = shared
        self._alert = alert
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._attempt = Attempt(gpu_pool=shared.request.gpu_pool)
        self._alone: set[int] = set()  # attempts whose pod an older release made, without a Job
        self._preemptions = 0

    async def run(self) -> Outcome:
        """Run attempts until no other follows.

        Jobs and pods stay, so that a restarted triggerer finds out the same: see `leftovers`.
        """
        await self._reattach()
        while True:
            is_alone = self._attempt.number in self._alone
            self._run = AttemptRun(self._shared, self._attempt, self._last_lines, is_alone=is_alone)
            try:
                outcome = await self._run.run()
            except GpuTimeout:
                await self._fall_back()
                continue
            finally:
                self._preemptions += self._run.preemptions
            next_attempt = self._attempt.after(outcome, self._shared.plan)
            if next_attempt is None:
                break
            # Two attempts must never write the same checkpoints.
            await self._run.pods.stop()
            pause = _backoff_seconds(next_attempt) if outcome.action is Action.RELAUNCH else 0
            self._shared.log.warning(
                "%s: %s; %s follows in %d s", outcome.cause, outcome.message, next_attempt, pause
            )
            await asyncio.sleep(pause)
            self._attempt = next_attempt
        if outcome.action is Action.ADAPT and self._attempt.ooms:
            outcome = Outcome(outcome.cause, f"{outcome.message} ({self._attempt} did not suffice)")
        return outcome

    def failure(self, outcome: Outcome) -> dict[str, Any]:
        """The details of a failed run: cause, events, the log's last lines, the pod and its node."""
        pod = self._run.deciding_pod
        return {
            "cause": str(outcome.cause),
            "message": outcome.message,
            "events": list(self._run.events),
            "log": list(self._last_lines),
            "pod": pod["metadata"]["name"] if pod else self._run.pods.name,
            "node": pod["spec"].get("nodeName", "") if pod else "",
            "attempts": self._attempt.number,
            "preemptions": self._preemptions,
        }

    async def _reattach(self) -> None:
        """Delete what earlier tries have made, and continue with the newest attempt of this try, if any."""
        kube, task, log = self._shared.kube, self._shared.task, self._shared.log
        of_task = task.selector()
        for found in (*await kube.jobs(of_task), *await kube.find(of_task)):
            if has_owner(found, "Job"):
                continue
            name = found["metadata"]["name"]
            if not task.has_made(found["metadata"]["labels"]):
                log.info("deleting %s of an earlier try", name)
                await Removal(kube, log).remove(found)
                continue
            attempt = Attempt.of_pod(found)
            if attempt.number >= self._attempt.number:
                self._attempt = attempt
            if is_pod(found):
                self._alone.add(attempt.number)
            log.info("reattached to %s (%s); its log follows from the beginning", name, attempt)

    async def _fall_back(self) -> None:
        """Continue on a CPU; announce it and send an alert."""
        task, waiting_time = self._shared.task, self._run.waiting_time
        gpu_attempt, self._attempt = self._attempt, self._attempt.on_cpu()
        seconds, reason = waiting_time.seconds(), waiting_time.reason
        waited, why = f"{seconds:.0f} s", short_reason(reason)
        self._shared.log.warning("no GPU within %s (%s): %s follows", waited, why, self._attempt)
        fallback = {"to": "cpu", "pool": gpu_attempt.gpu_pool, "waited_seconds": round(seconds)}
        await self._shared.announce({"fallback": {**fallback, "reason": reason}})
        pool = self._shared.platform.pool(str(gpu_attempt.gpu_pool))
        await self._alert(
            f"{task.dag_id}.{task.task_id} continues without a GPU",
            f"No GPU of {pool.words} within {waited}: {why}. It now runs on a CPU, with "
            f"batches in {self._attempt.batch_divisor} parts.",
            fallback,
        )


def _backoff_seconds(attempt: Attempt) -> float:
    """The pause before an attempt that follows a reclaim."""
    return float(min(RELAUNCH_SECONDS * 2 ** (attempt.reclaims - 1), MAX_BACKOFF_SECONDS))
