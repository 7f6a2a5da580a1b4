"""The Kubernetes calls of a deploy, beside those on pods: Deployments and Services by server-side apply."""

from __future__ import annotations

from typing import Any

import aiohttp

from trainyard.kube.client import Kube, KubeError
from trainyard.serving.manifests import CONTAINER, FIELD_MANAGER

_PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Service": "/api/v1/namespaces/{}/services",
}


class ServingKube(Kube):
    """Deployments, Services and pods of the serving namespace. Use as an async context manager."""

    async def deployment(self, name: str) -> dict[str, Any] | None:
        """The Deployment, or None when there is none."""
        return await self._get_if_there(self._path("Deployment", name))

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Make the object, or make it what the manifest says; what others set beside it stays."""
        path = self._path(manifest["kind"], manifest["metadata"]["name"])
        return await self._call("PATCH", path, {"fieldManager": FIELD_MANAGER, "force": "true"}, manifest)

    async def remove(self, kind: str, name: str) -> None:
        """Delete the object and all that it owns, if it is there."""
        try:
            await self._call("DELETE", self._path(kind, name), {"propagationPolicy": "Background"})
        except KubeError as error:
            if error.status != 404:
                raise

    async def last_lines(self, pod: str, count: int, *, previous: bool) -> list[str]:
        """The last lines of the server's log, or of the one before its restart; none when there is no log."""
        query = {"container": CONTAINER, "tailLines": str(count), "previous": str(previous).lower()}
        try:
            return [line async for line in self._stream(f"{self._pods}/{pod}/log", query)]
        except (KubeError, aiohttp.ClientError, TimeoutError):
            return []

    def _path(self, kind: str, name: str) -> str:
        return f"{_PATHS[kind].format(self.namespace)}/{name}"
