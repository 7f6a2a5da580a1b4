"""`TrainingPodTrigger`: the triggerer's side of a training task. The work is done in `pod_run`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.sdk.execution_time.xcom import XCom
from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from trainyard.kube import Kube
from trainyard.mapping import resolve_mapped
from trainyard.naming import LABEL_PREFIX, TaskIdentity
from trainyard.outcomes import Action, Cause, Outcome
from trainyard.platform import PlatformError, load_platform
from trainyard.pod_run import PodRun
from trainyard.pods import RequestError, TrainingRequest
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
        self._last_lines: list[str] = []

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, from which Airflow makes the trigger again."""
        return "trainyard.triggers.TrainingPodTrigger", {"request": self.request}

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Render the request. An error is kept for `run`, which fails the task in good order."""
        try:
            request = render(self.request, context, run_key=self._identity().run_key())
            self.request = resolve_mapped(request, self._identity().map_index)
        except (TemplateError, ValueError) as error:
            self._render_error = error

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Run the task; yields the one event that ends it."""
        try:
            outcome = await self._run()
        except (TemplateError, RequestError, PlatformError, ValueError) as error:
            outcome = Outcome(Cause.BAD_CONFIG, str(error))
        except Exception as error:
            self.log.exception("the trigger failed")
            outcome = Outcome(Cause.PLATFORM, f"{type(error).__name__}: {error}")
        yield await self._event(outcome)

    async def on_kill(self) -> None:
        """Delete this try's pods: a user ended or cleared the task (and the next try may have begun)."""
        task = self._identity()
        async with Kube(load_platform().training.namespace) as kube:
            for pod in await kube.find(f"{task.selector()},{LABEL_PREFIX}/try-number={task.try_number}"):
                await kube.delete(pod["metadata"]["name"])

    async def _run(self) -> Outcome:
        if self._render_error:
            raise self._render_error
        request = dict(self.request)
        startup_seconds = request.pop("startup_timeout_seconds")
        max_preemptions = request.pop("max_preemptions")
        platform = load_platform()
        async with Kube(platform.training.namespace) as kube:
            run = PodRun(
                kube,
                platform,
                TrainingRequest(**request),
                self._identity(),
                self.log,
                startup_seconds,
                self._push,
            )
            outcome = await run.run(max_preemptions)
            self._last_lines = list(run.last_lines)
            return outcome

    async def _event(self, outcome: Outcome) -> TriggerEvent:
        """The event which ends the task as `outcome` wants it."""
        if outcome.action is Action.SUCCEED:
            await self._push({**outcome.result, "return_value": outcome.result})
            return TaskSuccessEvent()
        self.log.error("%s: %s", outcome.cause, outcome.message)
        failure = {"cause": str(outcome.cause), "message": outcome.message, "log": self._last_lines}
        await self._push({"failure": failure})
        # TaskFailedEvent goes through Airflow's retries. What no retry can cure resumes on a worker,
        # which raises AirflowFailException: a trigger has no other way to say so.
        if outcome.action is Action.FAIL and (self.task is None or self.task.retries):
            return TriggerEvent(failure)
        return TaskFailedEvent()

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
