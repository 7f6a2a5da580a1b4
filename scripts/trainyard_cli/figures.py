"""What the running platform costs: memory of every pod, sizes of the images."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from . import host, kueue_build, release
from .kube import Json, Kube
from .shell import run

MIB = 2**20
NAMESPACES = (*release.OWN_NAMESPACES, kueue_build.NAMESPACE)


@dataclass(frozen=True)
class PodMemory:
    """Working set of one pod, in bytes: what the kubelet counts and evicts by."""

    namespace: str
    pod: str
    working_set: int


def memory(kube: Kube) -> list[PodMemory]:
    """Return the memory of the pods of the release and of Kueue, the largest first, as kubelets tell."""
    names = [node["metadata"]["name"] for node in kube.items("/api/v1/nodes")]
    summaries = [kube.get(f"/api/v1/nodes/{name}/proxy/stats/summary") for name in names]
    return pod_memory([pod for summary in summaries for pod in summary["pods"]])


def pod_memory(pods: list[Json]) -> list[PodMemory]:
    """Return the memory of those pods of kubelet summaries that belong to the release, or are Kueue's."""
    found = [
        PodMemory(
            namespace=pod["podRef"]["namespace"],
            pod=pod["podRef"]["name"],
            working_set=sum(each.get("memory", {}).get("workingSetBytes", 0) for each in pod["containers"]),
        )
        for pod in pods
        if pod["podRef"]["namespace"] in NAMESPACES
    ]
    return sorted(found, key=lambda each: -each.working_set)


def image_sizes() -> dict[str, str]:
    """Return reference -> size of the images that the release runs, as Docker tells them."""
    pattern = "{{.Repository}}:{{.Tag}} {{.Size}}"
    lines = run([host.docker(), "images", "--format", pattern, "trainyard/*"]).stdout.splitlines()
    sizes = dict(line.split(maxsplit=1) for line in lines)
    newest: dict[str, str] = {}
    for reference, size in sizes.items():  # Docker lists the newest tag of a repository first
        newest.setdefault(reference.partition(":")[0], size)
    return {f"trainyard/{name}": newest.get(f"trainyard/{name}", "absent") for name in release.IMAGE_KEYS}


def show(kube: Kube, console: Console) -> None:
    """Print memory and sizes as two tables."""
    found = memory(kube)
    table = Table("pod", "MiB", title="memory (working set)")
    for each in found:
        table.add_row(f"{each.namespace}/{each.pod}", f"{each.working_set / MIB:.0f}")
    table.add_row("total", f"{sum(each.working_set for each in found) / MIB:.0f}", style="bold")
    console.print(table)
    sizes = Table("image", "size", title="images")
    for image, size in image_sizes().items():
        sizes.add_row(image, size)
    console.print(sizes)
