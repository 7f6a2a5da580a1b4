"""Deletes Jobs and pods and waits until they are gone, also where a node never says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from trainyard.kube.jobs import JobKube
from trainyard.kube.status import Pod
from trainyard.training import job, outcomes
from trainyard.training.leftovers import is_pod
from trainyard.training.pod import GRACE_SECONDS

POLL_SECONDS = 1
# How long a deleted pod may take to end before its node counts as lost.
TERMINATION_SECONDS = GRACE_SECONDS + outcomes.LOST_AFTER_SECONDS


class Removal:
    """Removes what is in the namespace of `kube`, and writes to `log` which nodes are lost."""

    def __init__(self, kube: JobKube, log: Any) -> None:
        self._kube = kube
        self._log = log

    async def remove(self, found: Mapping[str, Any]) -> None:
        """Delete a Job with its pods, or a pod, and wait until it does not exist any more."""
        meta, deadline = found["metadata"], time.monotonic() + TERMINATION_SECONDS
        if not is_pod(found):
            return await self.remove_job(meta["name"])
        while (pod := await self._kube.get(meta["name"])) and pod["metadata"]["uid"] == meta["uid"]:
            await self.end([pod], force=time.monotonic() > deadline)
            await asyncio.sleep(POLL_SECONDS)

    async def remove_job(self, name: str) -> None:
        """Delete a Job, and wait until it and its pods do not exist any more."""
        deadline = time.monotonic() + TERMINATION_SECONDS
        await self._kube.delete_job(name)
        while await self._kube.job(name):
            pods = await self._kube.find(job.pod_selector(name))
            await self.end(pods, force=time.monotonic() > deadline)
            await asyncio.sleep(POLL_SECONDS)

    async def end(self, pods: Iterable[Pod], *, force: bool) -> None:
        """Delete the pods that are not being deleted; `force`, and the loss of a node, wait for no node."""
        for pod in pods:
            name, is_lost = pod["metadata"]["name"], await self._is_lost(pod)
            if is_lost:
                node = pod["spec"].get("nodeName", "?")
                self._log.warning("node %s does not respond; its pod %s is deleted", node, name)
            if is_lost or force or not pod["metadata"].get("deletionTimestamp"):
                await self._kube.delete(name, force=is_lost or force)

    async def _is_lost(self, pod: Pod) -> bool:
        """Whether the pod's node is gone, so that the pod will never be told that it is deleted."""
        now = datetime.now(UTC)
        if outcomes.is_lost(pod, now):
            return True
        return outcomes.may_be_lost(pod, now) and not await self._kube.node_answers(pod["metadata"]["name"])
