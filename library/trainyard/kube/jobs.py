"""Jobs, CronJobs and Services: for training on several nodes and for the CronJobs of the maintenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainyard.kube.client import Kube, KubeError


class JobKube(Kube):
    """Client for the pods, Jobs, CronJobs and Services of one namespace."""

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace)
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._workloads = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{namespace}/workloads"

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

    async def watch_job(
        self, name: str, until: Callable[[dict[str, Any]], bool], seconds: float
    ) -> dict[str, Any] | None:
        """The Job as soon as `until` is true of it, or after `seconds`; None if it does not exist."""
        seen: list[dict[str, Any]] = []

        def see(jobs: list[dict[str, Any]]) -> bool:
            seen[:] = jobs
            return not jobs or until(jobs[0])

        await self._watch(self._jobs, {"fieldSelector": f"metadata.name={name}"}, see, seconds)
        return seen[0] if seen else None

    async def workloads(self) -> list[dict[str, Any]]:
        """What Kueue knows of all Jobs with a queue."""
        return list((await self._call("GET", self._workloads))["items"])

    async def delete_job_if_unchanged(self, job: Mapping[str, Any]) -> bool:
        """Delete a Job unless it has changed since it was read; return whether it was deleted."""
        return await self._delete_if_unchanged(self._jobs, job)

    async def cron_job(self, name: str) -> dict[str, Any] | None:
        """The CronJob, or None if it does not exist."""
        return await self._get_or_none(f"/apis/batch/v1/namespaces/{self.namespace}/cronjobs/{name}")

    async def jobs(self, selector: str) -> list[dict[str, Any]]:
        """All Jobs that match the label selector."""
        return list((await self._call("GET", self._jobs, {"labelSelector": selector}))["items"])

    async def delete_job(self, name: str) -> None:
        """Delete a Job if it exists. It stays listed until its pods and its Service are deleted."""
        await self._delete_if_exists(f"{self._jobs}/{name}", {"propagationPolicy": "Foreground"})
