"""Seconds from the creation of a Job with a GPU to its running container: through Kueue, and without a queue.

The release needs queues.kueue.enabled, and a free GPU in the pool:

./scripts/_python --dev python tests/bench/queueing.py
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from kubernetes import client, config, watch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from trainyard_cli import paths

POOL, ROUNDS, SECONDS = "ondemand", 5, 60
# GPUs in the training namespace are had through its queues alone.
ELSEWHERE = "trainyard-bench"


def job(platform: dict[str, Any], name: str, queue: str) -> dict[str, Any]:
    """A Job that sleeps on a GPU node; it waits in `queue`, or with "" in none."""
    training, pool = platform["training"], platform["pools"][POOL]
    resources = {"cpu": "10m", "memory": "16Mi", pool["resourceName"]: "1"}
    container = {
        "name": "bench",
        "image": training["image"],
        "imagePullPolicy": training["imagePullPolicy"],
        "command": ["sleep", "600"],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": training["containerSecurityContext"],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "priorityClassName": training["priorityClassName"],
        "terminationGracePeriodSeconds": 0,
        "securityContext": training["podSecurityContext"],
        "nodeSelector": pool["nodeSelector"],
        "tolerations": pool["tolerations"],
        "containers": [container],
    }
    labels = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"suspend": bool(queue), "backoffLimit": 0, "template": {"spec": spec}},
    }


def seconds_to_run(core: client.CoreV1Api, namespace: str, manifest: dict[str, Any]) -> float:
    """Make a Job, wait until its container runs, and delete it again."""
    batch, name = client.BatchV1Api(core.api_client), manifest["metadata"]["name"]
    which = {"namespace": namespace, "label_selector": f"batch.kubernetes.io/job-name={name}"}
    started = time.perf_counter()
    batch.create_namespaced_job(namespace, manifest)
    try:
        for event in watch.Watch().stream(core.list_namespaced_pod, timeout_seconds=SECONDS, **which):
            if event["object"].status.phase == "Running":
                return time.perf_counter() - started
        raise SystemExit(f"{namespace}/{name} did not run within {SECONDS} s: is a GPU of pool {POOL} free?")
    finally:
        batch.delete_namespaced_job(name, namespace, propagation_policy="Foreground")
        while core.list_namespaced_pod(**which).items:
            time.sleep(0.2)


def main() -> None:
    config.load_kube_config(str(paths.KUBECONFIG))
    core = client.CoreV1Api()
    told = core.read_namespaced_config_map("trainyard-platform", "trainyard").data["platform.json"]
    platform = json.loads(told)
    queue = platform["pools"][POOL].get("queue")
    if not queue:
        raise SystemExit("the release has no queues: set queues.kueue.enabled")
    places = {"through Kueue": (platform["training"]["namespace"], queue), "without a queue": (ELSEWHERE, "")}
    found: dict[str, list[float]] = {what: [] for what in places}
    core.create_namespace({"metadata": {"name": ELSEWHERE}})
    try:
        for number in track(range(ROUNDS), description="starting"):
            for what, (namespace, name) in places.items():
                manifest = job(platform, f"bench-{number}", name)
                found[what].append(seconds_to_run(core, namespace, manifest))
    finally:
        core.delete_namespace(ELSEWHERE)
    table = Table("a Job", "median", "all", title="seconds from its creation to its running container")
    for what, times in found.items():
        table.add_row(what, f"{statistics.median(times):.2f}", " ".join(f"{each:.2f}" for each in times))
    Console().print(table)


if __name__ == "__main__":
    main()
