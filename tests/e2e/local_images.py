"""Images that are no part of the release: tests build them and load them into the nodes."""

from __future__ import annotations

from trainyard_cli import cluster, images, paths
from trainyard_cli.kube import Kube


class Quiet:
    """What commands report to, where nobody looks."""

    def update(self, note: str) -> None:
        """Say nothing."""


def built_and_loaded(name: str) -> str:
    """Return the image of images/<name> once every node for CPU work has it."""
    quiet = Quiet()
    image = images.ensure_built(quiet, name)
    workers = Kube(paths.KUBECONFIG).items("/api/v1/nodes", labelSelector="trainyard.dev/role=cpu")
    nodes = {images.CPU: [node["metadata"]["name"] for node in workers]}
    images.ensure_loaded(quiet, name, image, cluster.Cluster(cluster.NAME, paths.KUBECONFIG, nodes))
    return image
