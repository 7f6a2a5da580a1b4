"""Compares the Jobs and pods of training with the tries that made them, and ends what is left over.

A trigger deletes what it has made. It cannot do so where a person ends or deletes a run while no triggerer is
there, or where the API server refuses it: a pod would hold its GPU until its deadline.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from trainyard.kube.jobs import JobKube
from trainyard.kube.status import has_owner
from trainyard.naming import LABEL_PREFIX, TASK_INSTANCE, selector
from trainyard.platform import Platform, PlatformError
from trainyard.training import outcomes
from trainyard.training.leftovers import delete, has_ended, is_pod

# States of a try whose pods somebody follows, or will.
WAITING = frozenset({"scheduled", "queued", "running", "restarting", "deferred"})
ENDED_WELL = frozenset({"success", "skipped"})
# How long a trigger has for it, which says in its log what it deletes.
PATIENCE_SECONDS = 10
States = Callable[[Iterable[UUID]], Mapping[UUID, str]]
Found = dict[str, Any]
log = logging.getLogger(__name__)


class Reconciler:
    """Ends what nobody waits for in the namespaces of training.

    Args:
        states: returns the states of the tries that there are; called in a thread.
        patience: seconds that a trigger has to delete it.
    """

    def __init__(self, states: States, patience: float = PATIENCE_SECONDS) -> None:
        self._states = states
        self._patience = patience
        # By namespace and UID: when nobody waited for it for the first time.
        self._since: dict[str, dict[str, float]] = {}

    async def look(self, kube: JobKube, platform: Platform) -> None:
        """Look once at a namespace.

        Deletes what nobody has waited for since `patience`, and belongs to this release.

        Args:
            kube: client of the namespace.
            platform: whose release it is, and whether what has failed is kept for inspection.

        Raises:
            PlatformError: an older chart wrote the platform file, which does not say whose release it is.
            KubeError: the API server refuses to list or delete, or does not answer.
            sqlalchemy.exc.SQLAlchemyError: the database does not answer.
        """
        if not platform.release:
            raise PlatformError("the platform file has no `release`; the chart and the library do not match")
        # What is another release's, another database knows. This one is read last: whatever was made before
        # has its try in it.
        of_tries = f"{selector(platform.release_labels)},{TASK_INSTANCE}"
        found = [*await kube.jobs(of_tries), *await kube.find(of_tries)]
        states = await asyncio.to_thread(self._states, set(map(_try, found))) if found else {}
        left = {each["metadata"]["uid"]: each for each in found if states.get(_try(each)) not in WAITING}
        now = time.monotonic()
        before = self._since.get(kube.namespace, {})
        since = self._since[kube.namespace] = {uid: before.get(uid, now) for uid in left}
        for uid, each in left.items():
            if now - since[uid] >= self._patience:
                await self._end(kube, each, states.get(_try(each)), platform.training.keep_failed_pods)

    async def _end(self, kube: JobKube, found: Found, state: str | None, keep_failed: bool) -> None:
        """Delete a Job or a pod, and say so in the log and in an event."""
        name, kind = found["metadata"]["name"], "Pod" if is_pod(found) else "Job"
        if kind == "Pod" and outcomes.is_lost(found, datetime.now(UTC)):
            # Its node will never say that it has gone.
            await kube.delete(name, force=True)
        elif _goes_alone(found) or (keep_failed and has_ended(found) and state not in ENDED_WELL):
            return
        else:
            await delete(kube, found)
        told = f"{_task(found)} {_described(state)}: nobody waits for it"
        log.warning("deleted %s %s/%s: %s", kind, kube.namespace, name, told)
        await kube.tell(kind, found, "NobodyWaits", told)


def _goes_alone(found: Found) -> bool:
    """Whether it is on its way out, or goes with its Job."""
    return bool(found["metadata"].get("deletionTimestamp")) or has_owner(found, "Job")


def _try(found: Found) -> UUID:
    try:
        return UUID(found["metadata"]["labels"][TASK_INSTANCE])
    except ValueError:  # a label that somebody has changed is no try's
        return UUID(int=0)


def _task(found: Found) -> str:
    told = found["metadata"].get("annotations", {})
    task, run, dag = (told.get(f"{LABEL_PREFIX}/{key}-id", "?") for key in ("task", "run", "dag"))
    return f"task {task} of run {run} of DAG {dag}"


def _described(state: str | None) -> str:
    """What became of a try, as part of a sentence."""
    if state is None:
        return "was cleared, tried again or deleted with its run"
    return f"is {state or 'not to run'}"
