"""The Kubernetes API calls of a deploy: Deployments, Services and budgets by server-side apply."""

from __future__ import annotations

from typing import Any

from trainyard.kube.client import Kube
from trainyard.serving.manifests import FIELD_MANAGER

_PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Service": "/api/v1/namespaces/{}/services",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
}


class ServingKube(Kube):
    """Client for the Deployments, Services, PodDisruptionBudgets and pods of the serving namespace."""

    async def deployment(self, name: str) -> dict[str, Any] | None:
        """The Deployment, or None if it does not exist."""
        return await self._get_or_none(self._path("Deployment", name))

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Create or update the object by server-side apply; fields of other managers stay."""
        path = self._path(manifest["kind"], manifest["metadata"]["name"])
        return await self._call("PATCH", path, {"fieldManager": FIELD_MANAGER, "force": "true"}, manifest)

    async def remove(self, kind: str, name: str) -> None:
        """Delete the object and its dependents, if it exists."""
        await self._delete_if_exists(self._path(kind, name), {"propagationPolicy": "Background"})

    def _path(self, kind: str, name: str) -> str:
        return f"{_PATHS[kind].format(self.namespace)}/{name}"
