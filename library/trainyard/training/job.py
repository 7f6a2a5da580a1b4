"""The Job of one attempt: one pod, or one for each node and a Service by which they find each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainyard_contract import Env

from trainyard.training.kueue import QUEUE

PORT = 29500  # the rendezvous port of rank 0; torchrun's own default
INDEX = "batch.kubernetes.io/job-completion-index"
_JOB_NAME = "batch.kubernetes.io/job-name"


def torchrun_environment(address: str, nodes: int, gpus: int) -> dict[str, str]:
    """The environment variables that torchrun sets for all processes alike."""
    return {
        Env.MASTER_ADDR: address,
        Env.MASTER_PORT: str(PORT),
        Env.WORLD_SIZE: str(nodes * gpus),
        Env.LOCAL_WORLD_SIZE: str(gpus),
    }


def build_job(
    pod: Mapping[str, Any], name: str, *, nodes: int, gpus: int, waiting_seconds: int, queue: str = ""
) -> dict[str, Any]:
    """Return the Job that runs `pod`, a training pod's manifest, on `nodes` nodes with `gpus` GPUs each.

    Its pods may wait for `waiting_seconds` before they run. With a `queue`, Kueue decides when it makes them.
    """
    meta, spec = pod["metadata"], pod["spec"]
    labels = {**meta["labels"], **({QUEUE: queue} if queue else {})}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**meta, "name": name, "labels": labels},
        "spec": {
            "suspend": bool(queue),
            "completionMode": "Indexed",
            "completions": nodes,
            "parallelism": nodes,
            # All or nothing: if one pod fails or is deleted, the Job stops the others and makes no new one.
            "backoffLimit": 0,
            # Ends what nobody follows any more; the pods have their own deadline.
            "activeDeadlineSeconds": waiting_seconds + spec["activeDeadlineSeconds"],
            "template": {
                "metadata": {"labels": dict(meta["labels"]), "annotations": dict(meta["annotations"])},
                "spec": _who_meet(spec, name, nodes, gpus) if nodes > 1 else spec,
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


def _who_meet(spec: Mapping[str, Any], name: str, nodes: int, gpus: int) -> dict[str, Any]:
    """The spec of pods that find rank 0 by the Job's Service, each on a node of its own if possible."""
    (container,) = spec["containers"]
    rank = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
    told = torchrun_environment(f"{name}-0.{name}", nodes, gpus)
    env = [
        *container["env"],
        {"name": Env.NODE_RANK, "valueFrom": rank},
        *({"name": key, "value": value} for key, value in told.items()),
    ]
    return {
        **spec,
        "subdomain": name,
        "affinity": _spread_over_nodes(spec.get("affinity", {}), name),
        "containers": [{**container, "env": env}],
    }


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
