"""The Job of one attempt and its pods as they are in the cluster, and their end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from trainyard.kube.jobs import JobKube
from trainyard.kube.status import Pod
from trainyard.naming import ATTEMPT, OLDER_TRY, TRY, TaskIdentity, selector
from trainyard.training.gang import GangStatus
from trainyard.training.removal import TERMINATION_SECONDS, Removal

POLL_SECONDS = 2


class AttemptPods:
    """Follows what an attempt has in the namespace of `kube`.

    Args:
        kube: client of the namespace in which the task's DAG trains.
        task: the try of the task.
        number: that of the attempt.
        is_alone: whether an older release has made its pod, without a Job.
        nodes: the number of its pods.
        log: is told of nodes that are lost.
    """

    def __init__(
        self, kube: JobKube, task: TaskIdentity, number: int, nodes: int, log: Any, *, is_alone: bool = False
    ) -> None:
        self.name = task.job_name(number, nodes)
        self.status = GangStatus(nodes)
        self._kube = kube
        self._removal = Removal(kube, log)
        of_try = {OLDER_TRY if is_alone else TRY: str(task.try_number)}
        self._selector = selector({**task.labels(), **of_try, ATTEMPT: str(number)})

    @property
    def leader(self) -> str:
        """The name of the pod, or of rank 0's; of the Job until it has made them."""
        pod = self.status.pods.get(0)
        return str(pod["metadata"]["name"]) if pod else self.name

    async def look(self, until: Callable[[], bool], seconds: float) -> None:
        """Update the state until `until` is true, or for that many seconds."""
        if not until():
            await self._watch(until, seconds)

    async def stop(self) -> None:
        """Delete the pods that run, and wait until they have ended."""
        deadline = time.monotonic() + TERMINATION_SECONDS
        await self._watch(lambda: True, 0)
        while pods := self.status.unfinished():
            await self._removal.end(pods, force=time.monotonic() > deadline)
            await self.look(lambda: not self.status.unfinished(), POLL_SECONDS)

    async def remove(self) -> None:
        """Delete the Job, wait until it and its pods do not exist any more, and forget them."""
        await self._removal.remove_job(self.name)
        self.status = GangStatus(self.status.nodes)

    async def are_replaced(self) -> bool:
        """Whether the Job has made other pods than those that were seen."""
        return not self._known().issuperset(_uids(await self._kube.find(self._selector)))

    async def forget(self) -> None:
        """Wait until the pods that were seen do not exist any more, and forget them: the Job makes others."""
        old = self._known()
        await self._kube.watch(self._selector, lambda pods: old.isdisjoint(_uids(pods)), TERMINATION_SECONDS)
        self.status = GangStatus(self.status.nodes)

    def _known(self) -> set[str]:
        return _uids(self.status.pods.values())

    async def _watch(self, until: Callable[[], bool], seconds: float) -> None:
        def see(pods: list[Pod]) -> bool:
            self.status.update(pods)
            return until()

        await self._kube.watch(self._selector, see, seconds)


def _uids(pods: Any) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}
