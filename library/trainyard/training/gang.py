"""A gang: the pods of one attempt that train together, as an Indexed Job with a headless Service.

The manifests as pure functions, and the common state and outcome of the pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from trainyard_contract import Env

from trainyard.failures import Cause
from trainyard.kube.status import Pod, container_status
from trainyard.naming import MAX_LABEL, TaskIdentity
from trainyard.training import outcomes
from trainyard.training.outcomes import Outcome

PORT = 29500  # the rendezvous port of rank 0; torchrun's own default
MAX_HOLD_SECONDS = 300
_INDEX = "batch.kubernetes.io/job-completion-index"
_JOB_NAME = "batch.kubernetes.io/job-name"
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


def job_name(task: TaskIdentity, attempt: int, nodes: int) -> str:
    """The name of the Job and the Service. A pod's hostname is `NAME-INDEX`, which must be a DNS label."""
    head, digest, number = task.pod_name(attempt).rsplit("-", 2)
    length = MAX_LABEL - len(f"-{digest}-{number}-{nodes - 1}")
    return f"{head[:length].rstrip('-')}-{digest}-{number}"


def torchrun_environment(address: str, nodes: int, gpus: int) -> dict[str, str]:
    """The environment variables that torchrun sets for all processes alike."""
    return {
        Env.MASTER_ADDR: address,
        Env.MASTER_PORT: str(PORT),
        Env.WORLD_SIZE: str(nodes * gpus),
        Env.LOCAL_WORLD_SIZE: str(gpus),
    }


def build_job(
    pod: Mapping[str, Any], name: str, *, nodes: int, gpus: int, waiting_seconds: int
) -> dict[str, Any]:
    """Return the Job that runs `pod`, a training pod's manifest, on `nodes` nodes with `gpus` GPUs each.

    Its pods may wait for `waiting_seconds` before they run.
    """
    meta, spec = pod["metadata"], pod["spec"]
    (container,) = spec["containers"]
    field = {"fieldPath": f"metadata.annotations['{_INDEX}']"}
    env = [{"name": Env.NODE_RANK, "valueFrom": {"fieldRef": field}}]
    for key, value in torchrun_environment(f"{name}-0.{name}", nodes, gpus).items():
        env.append({"name": key, "value": value})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**meta, "name": name},
        "spec": {
            "completionMode": "Indexed",
            "completions": nodes,
            "parallelism": nodes,
            # All or nothing: if one pod fails or is deleted, the Job stops the others.
            "backoffLimit": 0,
            # Ends a gang whose triggerer is gone; the pods have their own deadline.
            "activeDeadlineSeconds": waiting_seconds + spec["activeDeadlineSeconds"],
            "template": {
                "metadata": {"labels": dict(meta["labels"]), "annotations": dict(meta["annotations"])},
                "spec": {
                    **spec,
                    "subdomain": name,
                    "affinity": _spread_over_nodes(spec.get("affinity", {}), name),
                    "containers": [{**container, "env": [*container["env"], *env]}],
                },
            },
        },
    }


def build_service(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Service that gives a Job's pods their DNS names; it is deleted with the Job."""
    meta = job["metadata"]
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": meta["name"],
        "uid": meta["uid"],
        # Foreground deletion of the Job waits for the Service, so that its name is free afterwards.
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": dict(meta["labels"]),
            "ownerReferences": [owner],
        },
        "spec": {
            "clusterIP": "None",
            # Pods connect to rank 0 before it is ready.
            "publishNotReadyAddresses": True,
            "selector": {_JOB_NAME: meta["name"]},
            "ports": [{"name": "rendezvous", "port": PORT}],
        },
    }


def pod_selector(name: str) -> str:
    """The label selector for the pods of a Job."""
    return f"{_JOB_NAME}={name}"


class GangStatus:
    """The state of the `nodes` pods of one attempt, by rank; a deleted pod keeps its last known state."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.pods: dict[int, Pod] = {}
        self._deleted: set[int] = set()

    def update(self, pods: Iterable[Pod]) -> None:
        """Update the state from the list of all pods that exist now."""
        current = {int(pod["metadata"]["annotations"][_INDEX]): pod for pod in pods}
        self.pods |= current
        self._deleted = self.pods.keys() - current.keys()

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

    @property
    def has_lost_a_node(self) -> bool:
        """Whether Kubernetes has deleted a pod that has not ended, for a taint of its node."""
        return any(outcomes.left_by_taint(pod) for pod in self.unfinished())

    def unfinished(self) -> list[Pod]:
        """The pods that exist and have not ended."""
        return [
            pod
            for rank, pod in self.pods.items()
            if rank not in self._deleted and not outcomes.has_ended(pod)
        ]

    def not_started(self) -> list[tuple[int, Pod]]:
        """Ranks and pods that have not started, those without a node first."""
        waiting = [(rank, pod) for rank, pod in sorted(self.pods.items()) if not outcomes.has_started(pod)]
        return sorted(waiting, key=lambda entry: bool(entry[1]["spec"].get("nodeName")))

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
        return replace(outcome, message=f"rank {rank} of {self.nodes}: {outcome.message}"), rank

    def _outcome(self, rank: int) -> Outcome:
        pod = self.pods.get(rank)
        if pod is None or not outcomes.has_ended(pod):
            return Outcome(Cause.PREEMPTED, "its pod was deleted")
        if rank and _has_succeeded(pod):  # only rank 0 writes a result
            return Outcome(Cause.SUCCESS, "done")
        return outcomes.classify(pod)


def hold_seconds(startup_seconds: float) -> float:
    """How long a gang may hold part of its GPUs: long enough for an autoscaler to add the other nodes."""
    return min(MAX_HOLD_SECONDS, startup_seconds / 4)


def _has_succeeded(pod: Pod) -> bool:
    terminated = container_status(pod).get("state", {}).get("terminated")
    return bool(terminated) and terminated.get("exitCode") == 0


def _spread_over_nodes(affinity: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Add to `affinity` that each pod prefers a node of its own, even if one node has room for several."""
    term = {"labelSelector": {"matchLabels": {_JOB_NAME: name}}, "topologyKey": "kubernetes.io/hostname"}
    weighted = {"weight": 100, "podAffinityTerm": term}
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    others = affinity.get("podAntiAffinity", {})
    return {
        **affinity,
        "podAntiAffinity": {**others, preferred: [*others.get(preferred, []), weighted]},
    }
