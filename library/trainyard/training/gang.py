"""The pods of one attempt, one for each node: their common state and outcome."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from trainyard.failures import Cause
from trainyard.kube.status import Pod, container_status
from trainyard.training import outcomes
from trainyard.training.job import INDEX
from trainyard.training.outcomes import Outcome

# The cause of a failed attempt is the first of these that a pod has. A pod that lost its peers exits with
# 143 like a stopped one, so PREEMPTED counts only if no pod has another cause.
_CAUSE_PRIORITY = (
    Cause.GPU_FAULT,
    Cause.BAD_CONFIG,
    Cause.BAD_DATA,
    Cause.CODE,
    Cause.BAD_RESULT,
    Cause.GPU_OOM,
    Cause.OOM,
    Cause.STORAGE,
    Cause.IMAGE,
    Cause.DEADLINE,
    Cause.UNKNOWN,
    Cause.KILLED,
    Cause.TEMPORARY,
    Cause.PREEMPTED,
)


class GangStatus:
    """The state of the `nodes` pods of one attempt, by rank.

    A deleted pod keeps its last known state, also when the Job has made another one for its rank.
    """

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.pods: dict[int, Pod] = {}
        self._deleted: set[int] = set()

    def update(self, pods: Iterable[Pod]) -> None:
        """Update the state from the list of all pods that exist now."""
        current = {_rank(pod): pod for pod in pods if not self._is_another(pod)}
        self.pods |= current
        self._deleted = self.pods.keys() - current.keys()

    def _is_another(self, pod: Pod) -> bool:
        """Whether the pod of its rank that was seen has another UID."""
        seen = self.pods.get(_rank(pod), pod)
        return seen["metadata"].get("uid") != pod["metadata"].get("uid")

    @property
    def scheduled(self) -> int:
        """How many pods have a node, and so hold its GPUs."""
        return sum(bool(pod["spec"].get("nodeName")) for pod in self.pods.values())

    @property
    def partly_scheduled(self) -> bool:
        """Whether some pods hold GPUs while others have no node: two such gangs may deadlock."""
        return 0 < self.scheduled < self.nodes

    @property
    def all_started(self) -> bool:
        """Whether all pods run, or have run."""
        return sum(outcomes.has_started(pod) for pod in self.pods.values()) == self.nodes

    @property
    def succeeded(self) -> bool:
        """Whether rank 0, which has the result, succeeded."""
        return 0 in self.pods and _has_succeeded(self.pods[0])

    @property
    def has_ended(self) -> bool:
        """Whether the attempt has ended: rank 0 succeeded, or a pod failed or was deleted."""
        return self.succeeded or any(
            rank in self._deleted or pod["metadata"].get("deletionTimestamp") or outcomes.has_ended(pod)
            for rank, pod in self.pods.items()
            if not _has_succeeded(pod)
        )

    def is_over(self, rank: int) -> bool:
        """Whether the pod of this rank has ended, or is gone."""
        return rank in self._deleted or (rank in self.pods and outcomes.has_ended(self.pods[rank]))

    def unfinished(self) -> list[Pod]:
        """The pods that exist and have not ended."""
        return [pod for rank, pod in self.pods.items() if not self.is_over(rank)]

    def not_started(self) -> list[tuple[int, Pod]]:
        """Ranks and pods that have not started, those without a node first."""
        waiting = [(rank, pod) for rank, pod in sorted(self.pods.items()) if not outcomes.has_started(pod)]
        return sorted(waiting, key=lambda entry: bool(entry[1]["spec"].get("nodeName")))

    def waiting_messages(self) -> list[str]:
        """What the scheduler and the kubelet report about those that have not started."""
        return [outcomes.waiting_message(pod) for _, pod in self.not_started()]

    def conclude(self) -> tuple[Outcome, int]:
        """The outcome of the attempt, and the rank of the pod that it is taken from.

        Rank 0 has the result. If the attempt failed, a pod's own error counts before what was done to a pod;
        that a pod lost its peers counts last.
        """
        outcome_of = {rank: self._outcome(rank) for rank in range(self.nodes)}
        if outcome_of[0].cause is Cause.SUCCESS:
            return outcome_of[0], 0
        failures = {rank: end for rank, end in outcome_of.items() if end.cause is not Cause.SUCCESS}
        rank = min(failures, key=lambda rank: _CAUSE_PRIORITY.index(failures[rank].cause))
        outcome = failures[rank]
        if self.nodes > 1:
            outcome = replace(outcome, message=f"rank {rank} of {self.nodes}: {outcome.message}")
        return outcome, rank

    def _outcome(self, rank: int) -> Outcome:
        pod = self.pods.get(rank)
        if pod is None or not outcomes.has_ended(pod):
            return outcomes.taken_away(pod)
        if rank and _has_succeeded(pod):  # only rank 0 writes a result
            return Outcome(Cause.SUCCESS, "done")
        return outcomes.classify(pod)


def _rank(pod: Pod) -> int:
    """The pod's rank; a pod of an older release, which is on its own, has rank 0."""
    return int(pod["metadata"].get("annotations", {}).get(INDEX, 0))


def _has_succeeded(pod: Pod) -> bool:
    terminated = container_status(pod).get("state", {}).get("terminated")
    return bool(terminated) and terminated.get("exitCode") == 0
