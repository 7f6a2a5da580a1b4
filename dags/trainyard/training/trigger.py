"""`TrainingPodTrigger`: the triggerer's side of a training task. The work is done in `pod_run`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from trainyard.alerts.alert import Alert
from trainyard.alerts.receivers import asend
from trainyard.failures import TaskFailed
from trainyard.kube.jobs import JobKube
from trainyard.naming import LABEL_PREFIX
from trainyard.platform import Platform, load_platform
from trainyard.training import links
from trainyard.training.attempt import RetryPlan
from trainyard.training.gang_run import GangRun
from trainyard.training.outcomes import Action
from trainyard.training.pod import TrainingRequest, run_key_of
from trainyard.training.pod_run import PodRun
from trainyard.triggerer.base import TriggererTask
from trainyard.triggerer.mapping import resolve_mapped
from trainyard.urls import run_url, task_url


class TrainingPodTrigger(TriggererTask):
    """Run one try of a training task from beginning to end.

    Args:
        request: the arguments of `TrainingPodOperator`, not rendered yet; `operators.start_trigger_args`
            makes it.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__(request)
        self._has_mlflow_link = False

    def rendered(self, context: Any) -> dict[str, Any]:
        """The request of this one of the mapped instances, if the task is mapped."""
        return resolve_mapped(super().rendered(context), self.identity.map_index)

    def reads(self) -> list[Any]:
        """What the step reads."""
        params = self.request.get("step_params")
        params = params if isinstance(params, Mapping) else {}  # a template that could not be rendered
        return [self.request.get("dataset"), params.get("features_uri"), params.get("model_uri")]

    async def work(self) -> Mapping[str, Any]:
        """Run the step's pods; return what the step returned."""
        request = dict(self.request)
        waits = {name: request.pop(f"{name}_timeout_seconds") for name in ("queue", "startup")}
        plan = RetryPlan(
            **{each.name: request.pop(each.name) for each in fields(RetryPlan) if each.name in request}
        )
        wanted = TrainingRequest(**{**request, "env_vars": {**self._origin(), **request["env_vars"]}})
        self.log.info(
            "step %s of %s: params %s",
            wanted.step,
            wanted.dataset,
            json.dumps(wanted.step_params, default=str),
        )
        platform = load_platform()
        async with JobKube(platform.training.namespace) as kube:
            run = (GangRun if wanted.nodes > 1 else PodRun)(
                kube,
                platform,
                wanted,
                self.identity,
                self.log,
                plan=plan,
                queue_seconds=waits["queue"],
                startup_seconds=waits["startup"],
                announce=lambda xcoms: self._announce(platform, wanted, xcoms),
                alert=self._alert,
            )
            outcome = await run.run()
        await self._link_mlflow(platform, wanted)
        if outcome.action is Action.SUCCEED:
            return outcome.result
        # To adapt was tried, if it is the outcome still.
        raise TaskFailed(**run.failure(outcome), retry=outcome.action not in (Action.FAIL, Action.ADAPT))

    async def abandon(self) -> None:
        """Delete this try's pods."""
        task = self.identity
        this_try = f"{task.selector()},{LABEL_PREFIX}/try-number={task.try_number}"
        async with JobKube(load_platform().training.namespace) as kube:
            for job in await kube.jobs(this_try):
                await kube.delete_job(job["metadata"]["name"])
            for pod in await kube.find(this_try):
                await kube.delete(pod["metadata"]["name"])

    def _origin(self) -> dict[str, str]:
        """Where the run comes from and whose it is, for the tags of its MLflow run.

        It is the task's owner's: who triggered the run is what Airflow 3.3.2 tells workers, but no triggerer.
        """
        task = self.identity
        owner = self.task.owner if self.task else ""
        return {"TRAINYARD_AIRFLOW_URL": run_url(task.dag_id, task.run_id), "TRAINYARD_USER": owner}

    async def _announce(self, platform: Platform, request: TrainingRequest, xcoms: Mapping[str, Any]) -> None:
        """Push what is to be known before the end, and the links to it."""
        task = self.identity
        found = dict(xcoms)
        if "pending" in xcoms:
            found |= links.why_pending(task)
        await self.push(found)
        if "node_name" in xcoms:
            await self._link_mlflow(platform, request)

    async def _link_mlflow(self, platform: Platform, request: TrainingRequest) -> None:
        """Push the link to the MLflow run once there is one: at the start, or else at the end."""
        if not self._has_mlflow_link:
            task = self.identity
            found = await links.mlflow_run(platform.training, task.dag_id, run_key_of(request, task))
            self._has_mlflow_link = bool(found)
            await self.push(found)

    async def _alert(self, title: str, text: str, details: Mapping[str, Any]) -> None:
        task = self.identity
        where = {"dag_id": task.dag_id, "run_id": task.run_id, "task_id": task.task_id}
        page = task_url(task.dag_id, task.run_id, task.task_id, task.map_index)
        await asend(Alert("warning", title, text, details={**where, **details}, links={"task": page}))
