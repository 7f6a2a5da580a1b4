"""A gang: the pods of one attempt that train together, as an Indexed Job with a headless Service.

Pure functions: the manifests, how far a gang has come, and what its pods' ends mean together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trainyard.failures import Cause
from trainyard.kube.status import Pod
from trainyard.naming import MAX_LABEL, TaskIdentity
from trainyard.training import outcomes
from trainyard.training.outcomes import Outcome

PORT = 29500  # where rank 0 waits for the others; torchrun's own default
MAX_HOLD_SECONDS = 300
_INDEX = "batch.kubernetes.io/job-completion-index"
_JOB_NAME = "batch.kubernetes.io/job-name"
# What pods that end together died of, the most telling first. A pod that only lost its peers exits with
# 143, as one that was stopped: so PREEMPTED is the cause when no pod has a better one.
_TELLING = (
    *(Cause.BAD_CONFIG, Cause.BAD_DATA, Cause.CODE, Cause.BAD_RESULT, Cause.GPU_OOM, Cause.OOM, Cause.IMAGE),
    *(Cause.DEADLINE, Cause.KILLED, Cause.TEMPORARY, Cause.PREEMPTED),
)


def job_name(task: TaskIdentity, attempt: int, nodes: int) -> str:
    """The Job's and the Service's name: a pod's hostname is it and the pod's index, and still a DNS label."""
    head, digest, number = task.pod_name(attempt).rsplit("-", 2)
    room = MAX_LABEL - len(f"-{digest}-{number}-{nodes - 1}")
    return f"{head[:room].rstrip('-')}-{digest}-{number}"


def environment(address: str, nodes: int, gpus: int) -> dict[str, str]:
    """What tells the processes of a gang about each other, by torchrun's names; NODE_RANK comes on top."""
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(PORT),
        "WORLD_SIZE": str(nodes * gpus),
        "LOCAL_WORLD_SIZE": str(gpus),
    }


def build_job(
    pod: Mapping[str, Any], name: str, *, nodes: int, gpus: int, startup_seconds: int
) -> dict[str, Any]:
    """Return the Job that runs `pod`, a training pod's manifest, on `nodes` nodes of `gpus` GPUs at once."""
    meta, spec = pod["metadata"], pod["spec"]
    (container,) = spec["containers"]
    field = {"fieldPath": f"metadata.annotations['{_INDEX}']"}
    env = environment(f"{name}-0.{name}", nodes, gpus)
    own = [{"name": "NODE_RANK", "valueFrom": {"fieldRef": field}}]
    own += [{"name": key, "value": value} for key, value in env.items()]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**meta, "name": name},
        "spec": {
            "completionMode": "Indexed",
            "completions": nodes,
            "parallelism": nodes,
            # All or nothing: one pod that fails or is deleted ends the others.
            "backoffLimit": 0,
            # For a gang that nobody minds any more; the pods have their own deadline.
            "activeDeadlineSeconds": startup_seconds + spec["activeDeadlineSeconds"],
            "template": {
                "metadata": {"labels": dict(meta["labels"]), "annotations": dict(meta["annotations"])},
                "spec": {
                    **spec,
                    "subdomain": name,
                    "affinity": _apart(name),
                    "containers": [{**container, "env": [*container["env"], *own]}],
                },
            },
        },
    }


def build_service(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Service that gives the pods of a created Job their names; it goes when the Job goes."""
    meta = job["metadata"]
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": meta["name"],
        "uid": meta["uid"],
        # A Job that is deleted in the foreground is gone only when the Service is: the name is free then.
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
            # Pods look for rank 0 as soon as they run.
            "publishNotReadyAddresses": True,
            "selector": {_JOB_NAME: meta["name"]},
            "ports": [{"name": "rendezvous", "port": PORT}],
        },
    }


def pods_of(name: str) -> str:
    """The label selector for the pods of a Job."""
    return f"{_JOB_NAME}={name}"


class Gang:
    """What was seen of the `nodes` pods of one attempt, by rank, until each ended or was gone."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.pods: dict[int, Pod] = {}
        self._gone: set[int] = set()

    def see(self, listed: Iterable[Pod]) -> None:
        """Take note of all pods that there are now."""
        now = {int(pod["metadata"]["annotations"][_INDEX]): pod for pod in listed}
        self.pods |= now
        self._gone = self.pods.keys() - now.keys()

    @property
    def placed(self) -> int:
        """How many pods have a node, and so hold its GPUs."""
        return sum(bool(pod["spec"].get("nodeName")) for pod in self.pods.values())

    @property
    def holds_in_vain(self) -> bool:
        """Whether some pods hold GPUs while others find none: two such gangs may wait for each other."""
        return 0 < self.placed < self.nodes

    @property
    def complete(self) -> bool:
        """Whether all pods run, or have run."""
        return sum(outcomes.has_started(pod) for pod in self.pods.values()) == self.nodes

    @property
    def done(self) -> bool:
        """Whether rank 0, which has the result, ended well."""
        return 0 in self.pods and _is_done(self.pods[0])

    @property
    def over(self) -> bool:
        """Whether the attempt is decided: rank 0 is done, or some pod failed or is taken away."""
        return self.done or any(
            rank in self._gone or pod["metadata"].get("deletionTimestamp") or outcomes.has_ended(pod)
            for rank, pod in self.pods.items()
            if not _is_done(pod)
        )

    def left(self) -> list[Pod]:
        """The pods that have not ended."""
        return [
            pod for rank, pod in self.pods.items() if rank not in self._gone and not outcomes.has_ended(pod)
        ]

    def waiting(self) -> list[tuple[int, Pod]]:
        """Ranks and pods that have not started, those without a node first."""
        late = [(rank, pod) for rank, pod in sorted(self.pods.items()) if not outcomes.has_started(pod)]
        return sorted(late, key=lambda entry: bool(entry[1]["spec"].get("nodeName")))

    def conclude(self) -> tuple[Outcome, int]:
        """How the attempt ended, and the rank of the pod that tells so.

        Rank 0 has the result. Otherwise the most telling end counts: what a pod found out itself, then what
        was done to it; that a pod ended because of its peers comes last.
        """
        ends = {rank: self._end(rank) for rank in range(self.nodes)}
        if ends[0].cause is Cause.SUCCESS:
            return ends[0], 0
        failures = {rank: end for rank, end in ends.items() if end.cause is not Cause.SUCCESS}
        rank = min(failures, key=lambda rank: _TELLING.index(failures[rank].cause))
        return Outcome(failures[rank].cause, f"rank {rank} of {self.nodes}: {failures[rank].message}"), rank

    def _end(self, rank: int) -> Outcome:
        pod = self.pods.get(rank)
        if pod is None or not outcomes.has_ended(pod):
            return Outcome(Cause.PREEMPTED, "its pod was deleted")
        if rank and _is_done(pod):  # rank 0 alone must leave a result
            return Outcome(Cause.SUCCESS, "done")
        return outcomes.classify(pod)


def hold_seconds(startup_seconds: float) -> float:
    """How long a gang may hold a part of its GPUs: long enough for an autoscaler to bring the other nodes."""
    return min(MAX_HOLD_SECONDS, startup_seconds / 4)


def _is_done(pod: Pod) -> bool:
    terminated = outcomes.container_status(pod).get("state", {}).get("terminated")
    return bool(terminated) and terminated.get("exitCode") == 0


def _apart(name: str) -> dict[str, Any]:
    """Rather a node for each pod, where one node could take several."""
    term = {"labelSelector": {"matchLabels": {_JOB_NAME: name}}, "topologyKey": "kubernetes.io/hostname"}
    weighted = {"weight": 100, "podAffinityTerm": term}
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [weighted]}}
