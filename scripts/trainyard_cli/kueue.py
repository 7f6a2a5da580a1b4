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
    release.wait_for_workloads(Kube(made.kubeconfig), stage, (kueue_build.NAMESPACE,))
