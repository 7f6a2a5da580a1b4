"""How long an attempt waits for its pods, and for what."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from trainyard.kube.status import Pod
from trainyard.training import outcomes
from trainyard.training.outcomes import Outcome
from trainyard.training.pending import Pending, WaitKind, waiting_kind

REMIND_SECONDS = 300  # how often an unchanged reason for waiting is logged again


class WaitingTime:
    """How long an attempt has waited, and for what."""

    def __init__(self) -> None:
        self.reason = ""
        self._started = self._created = self._starting = datetime.now(UTC)
        self._kind = WaitKind.START
        self._reported, self._reported_at = Pending(WaitKind.START, ""), 0.0

    def created(self, moment: datetime) -> None:
        """Set when the Job was created; the attempt has waited at least since then."""
        self._created = self._starting = moment
        self._started = min(self._started, moment)

    def queues(self) -> None:
        """Set that it waits for its turn: it does not start yet."""
        self._starting = datetime.now(UTC)

    def has_nodes(self, moments: Iterable[datetime | None]) -> None:
        """Set when the pods got their nodes, where they start."""
        self._starting = max((self._starting, *filter(None, moments)))

    def seconds(self) -> float:
        """How long the attempt has waited."""
        return (datetime.now(UTC) - self._started).total_seconds()

    def seconds_since_created(self) -> float:
        """How long its pods have waited."""
        return (datetime.now(UTC) - self._created).total_seconds()

    def seconds_starting(self) -> float:
        """How long it has been starting, without what it waited for its turn."""
        return (datetime.now(UTC) - self._starting).total_seconds()

    def should_report(self, pending: Pending) -> bool:
        """Record the reason; return whether to report it: if it changed, or after `REMIND_SECONDS`."""
        now = time.monotonic()
        # The kubelet alternates between two reasons while it retries to pull an image.
        same = (
            pending.reason == self._reported.reason or pending.kind is self._reported.kind is WaitKind.IMAGE
        )
        if same and now - self._reported_at < REMIND_SECONDS:
            return False
        self._reported, self._reported_at = pending, now
        # START means that the wait is almost over: keep the reason that came before.
        if pending.kind is not WaitKind.START or self._kind is WaitKind.START:
            self._kind, self.reason = pending.kind, pending.reason
        return True

    def pending_xcom(self, pod: str) -> dict[str, Any]:
        """The XCom `pending` of an attempt that waits."""
        since = self._started.isoformat(timespec="seconds")
        return {"kind": str(self._kind), "reason": self.reason, "since": since, "pod": pod, "resolved": False}

    def resolved_xcom(self, pod: str) -> dict[str, Any]:
        """The XCom `pending` of an attempt that has started."""
        return {**self.pending_xcom(pod), "resolved": True, "waited_seconds": round(self.seconds(), 1)}


class StartFailures:
    """Detects pods that will never start, by how long each has waited for the same reason."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, WaitKind], float] = {}

    def check(self, pods: Iterable[Pod]) -> Outcome | None:
        """The outcome of a pod that will never start; None while all of these may."""
        now = time.monotonic()
        kinds = {(pod["metadata"]["uid"], waiting_kind(pod)): pod for pod in pods}
        self._since = {kind: self._since.get(kind, now) for kind in kinds}
        failures = (outcomes.pending_failure(pod, now - self._since[kind]) for kind, pod in kinds.items())
        return next(filter(None, failures), None)
