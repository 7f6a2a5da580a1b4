"""Jobs, what they come from and what they own: for gangs, and for the CronJobs of the maintenance."""

from __future__ import annotations

from collections import deque
from contextlib import aclosing
from typing import Any

from trainyard.kube.client import Kube, KubeError
from trainyard.naming import CONTAINER


class JobKube(Kube):
    """Pods, Jobs and Services of one namespace."""

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace)
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"

    async def create_job(self, job: dict[str, Any]) -> dict[str, Any]:
        """Create a Job; one which is there already, under the same name, is returned as it is."""
        try:
            return await self._call("POST", self._jobs, body=job)
        except KubeError as error:
            if error.reason != "AlreadyExists":
                raise
            return await self.job(job["metadata"]["name"]) or await self.create_job(job)

    async def create_service(self, service: dict[str, Any]) -> None:
        """Create a Service, unless one of the name is there."""
        path = f"/api/v1/namespaces/{self.namespace}/services"
        try:
            await self._call("POST", path, body=service)
        except KubeError as error:
            if error.reason != "AlreadyExists":
                raise

    async def job(self, name: str) -> dict[str, Any] | None:
        """The Job, or None when there is none."""
        return await self._get_if_there(f"{self._jobs}/{name}")

    async def cron_job(self, name: str) -> dict[str, Any] | None:
        """The CronJob, or None when there is none."""
        return await self._get_if_there(f"/apis/batch/v1/namespaces/{self.namespace}/cronjobs/{name}")

    async def jobs(self, selector: str) -> list[dict[str, Any]]:
        """All Jobs with these labels."""
        return list((await self._call("GET", self._jobs, {"labelSelector": selector}))["items"])

    async def delete_job(self, name: str) -> None:
        """Delete a Job if it is there. It stays listed until its pods and its Service are gone."""
        try:
            await self._call("DELETE", f"{self._jobs}/{name}", {"propagationPolicy": "Foreground"})
        except KubeError as error:
            if error.status != 404:
                raise

    async def tail(self, name: str, lines: int) -> list[str]:
        """The end of a pod's log; [] when there is none any more."""
        found: deque[str] = deque(maxlen=lines)
        query = {"container": CONTAINER, "tailLines": str(lines)}
        try:
            async with aclosing(self._stream(f"{self._pods}/{name}/log", query)) as stream:
                async for line in stream:
                    found.append(line)
        except (KubeError, OSError, TimeoutError):  # it explains a failure, and must not become one
            pass
        return list(found)
