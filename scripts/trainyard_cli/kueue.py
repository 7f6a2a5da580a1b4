"""Kueue on the kind cluster, as whoever runs another cluster installs it there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from . import cluster, kueue_build, paths, release
from .kube import Kube
from .shell import run
from .stages import Stage
from .toolchain import Tools

Json = dict[str, Any]

API = "kueue.x-k8s.io/v1beta2"
MANIFESTS = paths.ROOT / "manifests/kind/kueue"


def is_wanted(pools: Iterable[Json]) -> bool:
    """Tell whether the chart's pools, as platform.json has them, are queued for."""
    return any(pool.get("queue") for pool in pools)


def install(stage: Stage, made: cluster.Cluster, tools: Tools, images: dict[str, str]) -> None:
    """Install Kueue, and return when it is ready."""
    definitions = kueue_build.definitions(stage)
    stage.update("Kueue")
    apply = [*made.kubectl(tools), "apply", "--server-side", "--force-conflicts", "-f"]
    run([*apply, definitions])
    run([*apply, "-"], input=yaml.safe_dump_all(release.manifests(MANIFESTS, images)))
    kube = Kube(made.kubeconfig)
    release.wait_for_workloads(kube, stage, (kueue_build.NAMESPACE,))
    _wait_for_webhooks(kube)


def _wait_for_webhooks(kube: Kube) -> None:
    """Return when they answer: after its node was started again, the pod is Ready a while before it is."""
    flavor = {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"generateName": "probe-"}}
    # Kubernetes says HTTP 500 for a webhook that does not answer, which is asked again.
    kube.call("POST", f"/apis/{API}/resourceflavors", params={"dryRun": "All"}, json=flavor)
