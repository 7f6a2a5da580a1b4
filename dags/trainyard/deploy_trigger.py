"""`DeployModelTrigger`: the triggerer's side of a deploy. The work is done in `deploy_run`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.sdk.execution_time.xcom import XCom
from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from trainyard.deploy_run import DeployRun
from trainyard.naming import TaskIdentity
from trainyard.platform import PlatformError, load_platform
from trainyard.serving import DeployFailed, DeployRequest, server_url, serving_of
from trainyard.serving_http import ModelServer, resolve_version
from trainyard.serving_kube import ServingKube
from trainyard.templates import TemplateError, render


class DeployModelTrigger(BaseTrigger):
    """Run one try of a deploy from beginning to end.

    Args:
        request: the arguments of `DeployModelOperator`, not rendered yet.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__()
        self.request = dict(request)
        self._render_error: Exception | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, from which Airflow makes the trigger again."""
        return "trainyard.deploy_trigger.DeployModelTrigger", {"request": self.request}

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Render the request. An error is kept for `run`, which fails the task in good order."""
        try:
            self.request = render(self.request, context, run_key=self._identity().run_key())
        except (TemplateError, ValueError) as error:
            self._render_error = error

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Deploy; yields the one event that ends the task."""
        try:
            result = await self._run()
        except DeployFailed as failed:
            yield await self._failure(failed)
        except (TemplateError, PlatformError, ValueError) as error:
            yield await self._failure(DeployFailed("bad_config", str(error)))
        except Exception as error:
            self.log.exception("the trigger failed")
            text = f"{type(error).__name__}: {error}"
            yield await self._failure(DeployFailed("platform", text, retry=True))
        else:
            await self._push({**result, "return_value": result})
            yield TaskSuccessEvent()

    async def on_kill(self) -> None:
        """Roll back what is not finished: a user ended or cleared the task."""
        if self._render_error is None and str(self.request["version"]).isdigit():
            async with self._kube() as kube:
                await self._deploy_run(kube, str(self.request["version"])).abandon()

    async def _run(self) -> dict[str, Any]:
        if self._render_error:
            raise self._render_error
        for name in ("model", "version"):
            if not str(self.request[name] or "").strip():
                raise ValueError(f"{name} is empty")
        tracking_uri = load_platform().training.tracking_uri
        version = await resolve_version(
            tracking_uri, str(self.request["model"]), str(self.request["version"])
        )
        self.request["version"] = version  # what an alias names is settled here; on_kill needs it
        async with self._kube() as kube:
            return await self._deploy_run(kube, version).run()

    def _kube(self) -> ServingKube:
        return ServingKube(serving_of(load_platform()).namespace)

    def _deploy_run(self, kube: ServingKube, version: str) -> DeployRun:
        platform, model = load_platform(), str(self.request["model"])
        request = DeployRequest(model, version, self.request["replicas"], self.request["image"])
        return DeployRun(
            kube,
            platform,
            request,
            self._token(),
            self.log,
            self.request["timeout_seconds"],
            ModelServer(server_url(serving_of(platform), model)),
        )

    async def _failure(self, failed: DeployFailed) -> TriggerEvent:
        """The event that fails the task, for good by way of a worker: see TrainingPodTrigger."""
        self.log.error("%s: %s", failed.cause, failed.message)
        failure = {"cause": failed.cause, "message": failed.message, "log": failed.log}
        await self._push({"failure": failure})
        if not failed.retry and (self.task is None or self.task.retries):
            return TriggerEvent(failure)
        return TaskFailedEvent()

    async def _push(self, xcoms: Mapping[str, Any]) -> None:
        """Push XComs. Not by the event's `xcoms`: those turn an object into its JSON text."""
        task = self._identity()
        where = {"dag_id": task.dag_id, "task_id": task.task_id, "run_id": task.run_id}
        for key, value in xcoms.items():
            await XCom.aset(key, value, **where, map_index=task.map_index)

    def _token(self) -> str:
        task = self._identity()
        return f"{task.dag_id} {task.run_id} {task.task_id} try {task.try_number}"

    def _identity(self) -> TaskIdentity:
        ti = self.task_instance
        if ti is None:
            raise RuntimeError("the trigger belongs to no task instance")
        return TaskIdentity(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number)
