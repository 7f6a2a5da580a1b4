"""`TrainingPodTrigger`: runs a training task in the triggerer, by means of `job_run`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import fields
from typing import Any, cast

from airflow.triggers.base import TriggerEvent
from trainyard_contract import Env, Tag

from trainyard.alerts.alert import Alert
from trainyard.alerts.receivers import asend
from trainyard.failures import TaskFailed
from trainyard.kube.jobs import JobKube
from trainyard.platform import Platform, load_platform
from trainyard.training import links
from trainyard.training.attempt import RetryPlan
from trainyard.training.job_run import JobRun
from trainyard.training.leftovers import delete_leftovers
from trainyard.training.outcomes import Action
from trainyard.training.pod import TrainingRequest, run_key_of
from trainyard.training.shared import Shared
from trainyard.triggerer.base import TriggererTask
from trainyard.triggerer.mapping import resolve_mapped
from trainyard.urls import run_url, task_url

log = logging.getLogger(__name__)
_tidying: set[asyncio.Task[None]] = set()


class TrainingPodTrigger(TriggererTask):
    """Run one try of a training task.

    Args:
        request: the arguments of `TrainingPodOperator`, not rendered yet; made by
            `training.operator.start_trigger_args`.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__(request)
        self._has_mlflow_link = False
        self._gpu_pool = ""  # the one in which the newest attempt runs; "" on a CPU
        self._image = ""  # that it runs, with its digest; "" where Kubernetes does not say it
        self._keeps_pods = False

    def rendered(self, context: Any) -> dict[str, Any]:
        """The rendered request; in a mapped task, with the arguments of this instance."""
        return resolve_mapped(super().rendered(context), self.identity.map_index)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Run the step. What it has made stays until Airflow has stored how it ended.

        Before that another triggerer may take over, which has to find out the same. The trigger itself ends
        now: Airflow would take it away as that of a task which a person ended.
        """
        async for event in super().run():
            yield event
        tidying = asyncio.create_task(self._tidy_when_stored())
        _tidying.add(tidying)  # asyncio itself keeps no reference
        tidying.add_done_callback(_tidying.discard)

    async def run_here(self) -> Any:
        """Run the step without a triggerer."""
        try:
            return await super().run_here()
        finally:
            await self._tidy(keep=self._keeps_pods)

    def reads(self) -> list[Any]:
        """The URIs that the step reads."""
        params = self.request.get("step_params")
        params = params if isinstance(params, Mapping) else {}  # a template that could not be rendered
        return [self.request.get("dataset"), params.get("features_uri"), params.get("model_uri")]

    async def work(self) -> Mapping[str, Any]:
        """Run the step in pods; return the step's result."""
        request, plan, timeouts = self.arguments()
        params = json.dumps(request.step_params, default=str)
        self.log.info("step %s of %s: params %s", request.step, request.dataset, params)
        platform = self._platform()
        async with _pods(platform, request.nodes) as kube:
            shared = Shared(
                kube,
                platform,
                request,
                self.identity,
                self.log,
                plan=plan,
                queue_seconds=timeouts["queue"],
                startup_seconds=timeouts["startup"],
                announce=lambda xcoms: self._announce(platform, request, xcoms),
            )
            run = JobRun(shared, self._alert)
            outcome = await run.run()
        self._keeps_pods = platform.training.keep_failed_pods and outcome.action is not Action.SUCCEED
        await self._link_mlflow(platform, request)
        if outcome.action is Action.SUCCEED:
            return outcome.result
        # After ADAPT, the attempt with more memory or smaller batches has failed as well.
        raise TaskFailed(**run.failure(outcome), retry=outcome.action not in (Action.FAIL, Action.ADAPT))

    def arguments(self) -> tuple[TrainingRequest, RetryPlan, dict[str, int]]:
        """What the rendered request asks for: the step, its attempts, and the waits `queue` and `startup`."""
        arguments = dict(self.request)
        timeouts = {name: arguments.pop(f"{name}_timeout_seconds") for name in ("queue", "startup")}
        plan = RetryPlan(
            **{each.name: arguments.pop(each.name) for each in fields(RetryPlan) if each.name in arguments}
        )
        env_vars = {**self._origin_env(), **arguments["env_vars"]}
        return TrainingRequest(**{**arguments, "env_vars": env_vars}), plan, timeouts

    async def abandon(self) -> None:
        """Delete this try's pods."""
        await self._tidy(keep=False)

    async def _tidy_when_stored(self) -> None:
        try:
            if await self.stored():
                await self._tidy(keep=self._keeps_pods)
        except Exception:  # the reconciler does it then
            log.exception("what %s has made is left", self.identity)

    async def _tidy(self, *, keep: bool) -> None:
        """Delete this try's pods; `keep` those that have ended, for inspection."""
        async with _pods(self._platform()) as kube:
            await delete_leftovers(kube, self.identity.try_selector(), keep=keep)

    def _platform(self) -> Platform:
        """The platform for the task's DAG: here, and nowhere else, its team decides on the namespace."""
        return load_platform().for_dag(self.identity.dag_id)

    def _origin_env(self) -> dict[str, str]:
        """Environment variables for the tags of the MLflow run: the DAG run's URL and version, and the user.

        The user is who triggered the run; of a run that nobody triggered, it is the task's owner.
        """
        task = self.identity
        user = getattr(self.context.get("dag_run"), "triggering_user_name", None)
        owner = self.task.owner if self.task else ""
        version = getattr(self.task_instance, "dag_version_id", None)
        return {
            Env.AIRFLOW_URL: run_url(task.dag_id, task.run_id),
            Env.USER: user or owner,
            **({Env.DAG_VERSION: str(version)} if version else {}),
        }

    async def _announce(self, platform: Platform, request: TrainingRequest, xcoms: Mapping[str, Any]) -> None:
        """Push XComs during the run, and the links that belong to them."""
        link = links.why_pending(self.identity) if "pending" in xcoms else {}
        await self.push({**xcoms, **link})
        if "node_name" in xcoms:
            self._gpu_pool, self._image = xcoms.get("gpu_pool", ""), xcoms.get("image", "")
            await self._link_mlflow(platform, request)

    async def _link_mlflow(self, platform: Platform, request: TrainingRequest) -> None:
        """Push the link to the MLflow run as soon as the run exists: at the start or at the end.

        What a pod does not know becomes a tag here: the digest of the image that trains, and the pool where
        Kueue has chosen it from a list.
        """
        asked = {request.gpu_pool, self.request.get("escalate_to")}
        is_told_here = self._gpu_pool and asked & platform.pool_lists.keys()
        tags = {Tag.GPU_POOL: self._gpu_pool} if is_told_here else {}
        if self._image and request.step == "train":
            tags[Tag.IMAGE] = self._image
        if not self._has_mlflow_link or tags:
            task = self.identity
            key = run_key_of(request, task)
            link = await links.mlflow_run(platform.training, task.dag_id, key, tags)
            self._has_mlflow_link = bool(link)
            await self.push(link)

    async def _alert(self, title: str, text: str, details: Mapping[str, Any]) -> None:
        task = self.identity
        ids = {"dag_id": task.dag_id, "run_id": task.run_id, "task_id": task.task_id}
        url = task_url(task.dag_id, task.run_id, task.task_id, task.map_index)
        await asend(Alert("warning", title, text, details={**ids, **details}, links={"task": url}))


def _pods(platform: Platform, nodes: int = 1) -> JobKube:
    """Where pods run: in the cluster, or as containers on this machine."""
    if platform.local is None:
        return JobKube(platform.training.namespace)
    if nodes > 1:
        raise ValueError(f"nodes={nodes}: without a cluster a training has one node")
    # Later, as nobody else needs it. It has the calls that a training on one node makes.
    from trainyard.local.containers import Containers

    return cast(JobKube, Containers(platform.local))
