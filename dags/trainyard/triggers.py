"""`TrainingPodTrigger`: the triggerer's side of a training task. The work is done in `pod_run`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import fields
from typing import Any

from airflow.sdk.execution_time.xcom import XCom
from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from trainyard import lineage, links
from trainyard.alerts import Alert, asend, run_url, task_url
from trainyard.attempt import RetryPlan
from trainyard.gang_run import GangRun
from trainyard.jobs import JobKube
from trainyard.mapping import resolve_mapped
from trainyard.naming import LABEL_PREFIX, TaskIdentity
from trainyard.outcomes import Action, Cause, Outcome
from trainyard.platform import Platform, PlatformError, load_platform
from trainyard.pod_run import PodRun
from trainyard.pods import RequestError, TrainingRequest, run_key_of
from trainyard.templates import TemplateError, render


class TrainingPodTrigger(BaseTrigger):
    """Run one try of a training task from beginning to end.

    Args:
        request: the arguments of `TrainingPodOperator`, not rendered yet; `operators.start_trigger_args`
            makes it.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__()
        self.request = dict(request)
        self._render_error: Exception | None = None
        self._user = ""
        self._has_mlflow_link = False
        self._failure: dict[str, Any] = {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, from which Airflow makes the trigger again."""
        return "trainyard.triggers.TrainingPodTrigger", {"request": self.request}

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Render the request. An error is kept for `run`, which fails the task in good order."""
        self._user = getattr(context.get("dag_run"), "triggering_user_name", None) or ""
        try:
            request = render(self.request, context, run_key=self._identity().run_key())
            self.request = resolve_mapped(request, self._identity().map_index)
        except (TemplateError, ValueError) as error:
            self._render_error = error

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Run the task; yields the one event that ends it."""
        await lineage.started(self._identity(), self.request)
        try:
            outcome = await self._run()
        except (TemplateError, RequestError, PlatformError, ValueError) as error:
            outcome = Outcome(Cause.BAD_CONFIG, str(error))
        except Exception as error:
            self.log.exception("the trigger failed")
            outcome = Outcome(Cause.PLATFORM, f"{type(error).__name__}: {error}")
        await lineage.ended(self._identity(), self.request, outcome)
        yield await self._event(outcome)

    async def on_kill(self) -> None:
        """Delete this try's pods: a user ended or cleared the task (and the next try may have begun)."""
        task = self._identity()
        this_try = f"{task.selector()},{LABEL_PREFIX}/try-number={task.try_number}"
        async with JobKube(load_platform().training.namespace) as kube:
            for job in await kube.jobs(this_try):
                await kube.delete_job(job["metadata"]["name"])
            for pod in await kube.find(this_try):
                await kube.delete(pod["metadata"]["name"])

    async def _run(self) -> Outcome:
        if self._render_error:
            raise self._render_error
        request = dict(self.request)
        startup_seconds = request.pop("startup_timeout_seconds")
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
                self._identity(),
                self.log,
                plan=plan,
                startup_seconds=startup_seconds,
                announce=lambda xcoms: self._announce(platform, wanted, xcoms),
                alert=self._alert,
            )
            outcome = await run.run()
            self._failure = run.failure(outcome)
        await self._link_mlflow(platform, wanted)
        return outcome

    def _origin(self) -> dict[str, str]:
        """Where the run comes from, for the tags of its MLflow run."""
        task = self._identity()
        env = {"TRAINYARD_AIRFLOW_URL": run_url(task.dag_id, task.run_id)}
        return {**env, "TRAINYARD_USER": self._user} if self._user else env

    async def _event(self, outcome: Outcome) -> TriggerEvent:
        """The event which ends the task as `outcome` wants it."""
        if outcome.action is Action.SUCCEED:
            await self._push({**outcome.result, "return_value": outcome.result})
            return TaskSuccessEvent()
        self.log.error("%s: %s", outcome.cause, outcome.message)
        failure = {**self._failure, "cause": str(outcome.cause), "message": outcome.message}
        await self._push({"failure": failure})
        # TaskFailedEvent goes through Airflow's retries. What no retry can cure resumes on a worker,
        # which raises AirflowFailException: a trigger has no other way to say so.
        hopeless = outcome.action in (Action.FAIL, Action.ADAPT)
        if hopeless and (self.task is None or self.task.retries):
            return TriggerEvent({"cause": failure["cause"], "message": failure["message"]})
        return TaskFailedEvent()

    async def _announce(self, platform: Platform, request: TrainingRequest, xcoms: Mapping[str, Any]) -> None:
        """Push what is to be known before the end, and the links to it."""
        task = self._identity()
        found = dict(xcoms)
        if "pending" in xcoms:
            found |= links.why_pending(task)
        await self._push(found)
        if "node_name" in xcoms:
            await self._link_mlflow(platform, request)

    async def _link_mlflow(self, platform: Platform, request: TrainingRequest) -> None:
        """Push the link to the MLflow run once there is one: at the start, or else at the end."""
        if not self._has_mlflow_link:
            task = self._identity()
            found = await links.mlflow_run(platform.training, task.dag_id, run_key_of(request, task))
            self._has_mlflow_link = bool(found)
            await self._push(found)

    async def _alert(self, title: str, text: str, details: Mapping[str, Any]) -> None:
        task = self._identity()
        where = {"dag_id": task.dag_id, "run_id": task.run_id, "task_id": task.task_id}
        page = task_url(task.dag_id, task.run_id, task.task_id, task.map_index)
        await asend(Alert("warning", title, text, details={**where, **details}, links={"task": page}))

    async def _push(self, xcoms: Mapping[str, Any]) -> None:
        """Push XComs. Not by the event's `xcoms`: those turn an object into its JSON text."""
        task = self._identity()
        for key, value in xcoms.items():
            await XCom.aset(
                key,
                value,
                dag_id=task.dag_id,
                task_id=task.task_id,
                run_id=task.run_id,
                map_index=task.map_index,
            )

    def _identity(self) -> TaskIdentity:
        ti = self.task_instance
        if ti is None:
            raise RuntimeError("the trigger belongs to no task instance")
        return TaskIdentity(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number)
