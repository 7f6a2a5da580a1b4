"""Jobs, CronJobs and Services: for training on several nodes and for the CronJobs of the maintenance."""

from __future__ import annotations

from typing import Any

from trainyard.kube.client import Kube, KubeError


class JobKube(Kube):
    """Client for the pods, Jobs, CronJobs and Services of one namespace."""

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace)
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"

    async def create_job(self, job: dict[str, Any]) -> dict[str, Any]:
        """Create a Job. If a Job of that name exists, return it unchanged."""
        return await self._create_or_get(self._jobs, job)

    async def create_service(self, service: dict[str, Any]) -> None:
        """Create a Service, unless one of that name exists."""
        path = f"/api/v1/namespaces/{self.namespace}/services"
        try:  # not `_create_or_get`: the triggerer's Role lets it create Services, but not get them
            await self._call("POST", path, body=service)
        except KubeError as error:
            if error.reason != "AlreadyExists":
                raise

    async def job(self, name: str) -> dict[str, Any] | None:
        """The Job, or None if it does not exist."""
        return await self._get_or_none(f"{self._jobs}/{name}")

    async def cron_job(self, name: str) -> dict[str, Any] | None:
        """The CronJob, or None if it does not exist."""
        return await self._get_or_none(f"/apis/batch/v1/namespaces/{self.namespace}/cronjobs/{name}")

    async def jobs(self, selector: str) -> list[dict[str, Any]]:
        """All Jobs that match the label selector."""
        return list((await self._call("GET", self._jobs, {"labelSelector": selector}))["items"])

    async def delete_job(self, name: str) -> None:
        """Delete a Job if it exists. It stays listed until its pods and its Service are deleted."""
        await self._delete_if_exists(f"{self._jobs}/{name}", {"propagationPolicy": "Foreground"})
