"""A release of the chart on a cluster: its objects, found by their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .kube import Kube
from .objects import Identity
from .workloads import identity, list_path

Json = dict[str, Any]


@dataclass(frozen=True)
class Installed:
    """A release, and the cluster and namespace it is in."""

    kube: Kube
    namespace: str
    name: str

    def selector(self, component: str = "") -> str:
        """Return what selects the release's objects, or those of one component."""
        own = f"app.kubernetes.io/instance={self.name}"
        return f"{own},app.kubernetes.io/component={component}" if component else own

    def jobs(self, component: str) -> list[Json]:
        """Return the Jobs of a component, the oldest first."""
        found = self.kube.items(list_path("Job", self.namespace), labelSelector=self.selector(component))
        return sorted(found, key=lambda each: str(each["metadata"]["creationTimestamp"]))

    def workloads(self, component: str = "") -> set[Identity]:
        """Return the Deployments and StatefulSets of the release, or those of one component."""
        return {
            identity(kind, self.namespace, each["metadata"]["name"])
            for kind in ("Deployment", "StatefulSet")
            for each in self.kube.items(
                list_path(kind, self.namespace), labelSelector=self.selector(component)
            )
        }
