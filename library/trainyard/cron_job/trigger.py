"""`CronJobTrigger`: runs a Job in the triggerer for `RunCronJobOperator`."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Mapping
from typing import Any

from trainyard.failures import Cause, TaskFailed
from trainyard.kube.client import KubeError
from trainyard.kube.jobs import JobKube
from trainyard.kube.logs import LogPosition
from trainyard.kube.status import condition
from trainyard.naming import TaskIdentity
from trainyard.triggerer.base import TriggererTask

POLL_SECONDS = 2

Object = dict[str, Any]


class CronJobTrigger(TriggererTask):
    """Create a Job from a CronJob, copy its log and wait until it ends."""

    async def work(self) -> dict[str, str]:
        """Create the Job, or reattach to the one that this try created before, and wait for it."""
        async with self.connect() as kube:
            job = await self._start(kube)
            await self._follow(kube, job)
        return {"job": job["metadata"]["name"]}

    def connect(self) -> JobKube:
        """A client of the CronJob's namespace."""
        return JobKube(self.request["namespace"])

    async def _start(self, kube: JobKube) -> Object:
        name = self.request["cron_job"]
        try:
            cron_job = await kube.cron_job(name)
            if cron_job is None:
                raise TaskFailed(Cause.BAD_CONFIG, f"there is no CronJob {kube.namespace}/{name}")
            job = await kube.create_job(job_from(cron_job, self.identity, self.request["env"]))
        except KubeError as error:
            cause = Cause.PLATFORM if error.temporary else Cause.BAD_CONFIG
            raise TaskFailed(cause, f"CronJob {name}: {error.message}", retry=error.temporary) from error
        self.log.info("Job %s/%s, from CronJob %s", kube.namespace, job["metadata"]["name"], name)
        return job

    async def _follow(self, kube: JobKube, job: Object) -> None:
        """Copy the log until the Job ends. Raises TaskFailed if it does not succeed."""
        name, container = job["metadata"]["name"], _container(job)["name"]
        until = time.monotonic() + self.request["deadline_seconds"]
        positions: dict[str, LogPosition] = {}
        while True:
            current = await kube.job(name)
            pods = await kube.find(f"batch.kubernetes.io/job-name={name}")
            for pod in pods:
                position = positions.setdefault(pod["metadata"]["name"], LogPosition())
                await self._copy_log(kube, pod, container, position)
            if current is None:
                raise TaskFailed(Cause.PLATFORM, f"the Job {name} was deleted", retry=True)
            if _has_condition(current, "Complete"):
                return
            if _has_condition(current, "Failed"):
                raise TaskFailed(Cause.CODE, failure_message(current, pods), retry=True)
            if time.monotonic() > until:
                seconds = self.request["deadline_seconds"]
                raise TaskFailed(
                    Cause.DEADLINE, f"the Job {name} has not ended within {seconds} s", retry=True
                )
            await asyncio.sleep(POLL_SECONDS)

    async def _copy_log(self, kube: JobKube, pod: Object, container: str, position: LogPosition) -> None:
        """Copy the new lines of a pod's log, until it ends or the stream breaks."""
        try:
            async for line in kube.log_lines(pod["metadata"]["name"], position, container):
                self.log.info("%s", line)
        except KubeError as error:
            if pod.get("status", {}).get("phase") != "Pending":  # a pending pod has no log
                self.log.warning("the pod's log cannot be read: %s", error.message)


def job_from(cron_job: Mapping[str, Any], task: TaskIdentity, env: Mapping[str, Any]) -> Object:
    """The Job for a try of a task; its name is deterministic, so that a restarted triggerer finds it.

    Raises:
        ValueError: the container has no such environment variable.
    """
    template: Object = copy.deepcopy(cron_job["spec"]["jobTemplate"])
    metadata = template.get("metadata", {})
    job: Object = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": task.job_name(1),
            "labels": metadata.get("labels", {}),
            "annotations": {**metadata.get("annotations", {}), "cronjob.kubernetes.io/instantiate": "manual"},
            # Without `controller`: the CronJob does not manage the Job, like one that kubectl created.
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "CronJob",
                    "name": cron_job["metadata"]["name"],
                    "uid": cron_job["metadata"]["uid"],
                }
            ],
        },
        "spec": template["spec"],
    }
    variables = {one["name"]: one for one in _container(job).get("env", [])}
    for name, value in env.items():
        if value is None:
            continue
        if name not in variables:
            raise ValueError(f"env: the CronJob {cron_job['metadata']['name']} has no variable {name}")
        variables[name].clear()
        variables[name].update(name=name, value=str(value))
    return job


def failure_message(job: Mapping[str, Any], pods: list[Object]) -> str:
    """The failure message of a Job and the termination messages of its containers."""
    messages = [condition(job, "Failed").get("message", "")]
    for pod in pods:
        for status in pod.get("status", {}).get("containerStatuses") or []:
            terminated = status.get("state", {}).get("terminated") or {}
            messages.append(terminated.get("message", "").strip() or terminated.get("reason", ""))
    return ": ".join(filter(None, [f"the Job {job['metadata']['name']} failed", *messages]))


def _container(job: Mapping[str, Any]) -> Object:
    container: Object = job["spec"]["template"]["spec"]["containers"][0]
    return container


def _has_condition(job: Mapping[str, Any], kind: str) -> bool:
    return condition(job, kind).get("status") == "True"
