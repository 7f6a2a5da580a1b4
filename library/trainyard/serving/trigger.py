"""`DeployModelTrigger`: runs a deploy in the triggerer, by means of `deploy_run`."""

from __future__ import annotations

from typing import Any

from trainyard.platform import load_platform
from trainyard.serving.deploy_run import DeployRun
from trainyard.serving.http import ModelServer, resolve_version
from trainyard.serving.kube import ServingKube
from trainyard.serving.manifests import DeployRequest, server_url, serving_of
from trainyard.triggerer.base import TriggererTask


class DeployModelTrigger(TriggererTask):
    """Run one try of a deploy."""

    def reads(self) -> list[str]:
        """The URI of the version that it deploys."""
        model, version = self.request["model"], str(self.request["version"])
        return [f"models:/{model}/{version}" if version.isdigit() else f"models:/{model}@{version}"]

    async def work(self) -> dict[str, Any]:
        """Deploy; return the model's URL and versions."""
        for name in ("model", "version"):
            if not str(self.request[name] or "").strip():
                raise ValueError(f"{name} is empty")
        tracking_uri = load_platform().training.tracking_uri
        version = await resolve_version(
            tracking_uri, str(self.request["model"]), str(self.request["version"])
        )
        self.request["version"] = version  # `abandon` needs the number that an alias stands for
        async with self._kube() as kube:
            return await self._deploy_run(kube, version).run()

    async def abandon(self) -> None:
        """Roll back an unfinished deploy."""
        if self.render_error is None and str(self.request["version"]).isdigit():
            async with self._kube() as kube:
                await self._deploy_run(kube, str(self.request["version"])).abandon()

    def _kube(self) -> ServingKube:
        platform = load_platform()
        if platform.local is not None:
            raise ValueError("a model is deployed on a cluster, and this run has none")
        return ServingKube(serving_of(platform).namespace)

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

    def _token(self) -> str:
        task = self.identity
        return f"{task.dag_id} {task.run_id} {task.task_id} try {task.try_number}"
