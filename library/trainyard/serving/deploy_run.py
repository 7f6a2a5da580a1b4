"""One try of a deploy, independent of Airflow: roll out the model server, test it, roll it back if it fails.

All state is in the Deployment's annotations (`manifests.Record`): a restarted triggerer reads it and
continues, and of two deploys of one model, the later one owns the Deployment.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trainyard.failures import Cause
from trainyard.kube.client import KubeError
from trainyard.kube.logs import parse_log_line
from trainyard.kube.status import event_line
from trainyard.platform import Platform
from trainyard.serving import manifests
from trainyard.serving.http import ModelServer, NoAnswer
from trainyard.serving.kube import ServingKube
from trainyard.serving.manifests import DeployFailed, DeployRequest, Record, Superseded

POLL_SECONDS = 1
REMIND_SECONDS = 60  # how often an unchanged reason for waiting is logged again
SMOKE_TEST_SECONDS = 60  # for the Service to route to the new servers only
ROLLBACK_SECONDS = 300
LAST_LINES = 20


class DeployRun:
    """Deploys `request`.

    Args:
        kube: client of the serving namespace.
        platform: how models are served.
        request: what to deploy.
        token: identifies the try of the task, also after a restart of the triggerer.
        log: receives what the deploy waits for and why it fails.
        timeout_seconds: how long the roll-out may take.
        server: client of the model's Service.
    """

    def __init__(
        self,
        kube: ServingKube,
        platform: Platform,
        request: DeployRequest,
        token: str,
        log: Any,
        timeout_seconds: int,
        server: ModelServer,
    ) -> None:
        self.kube = kube
        self.platform = platform
        self.request = request
        self.token = token
        self.log = log
        self.timeout_seconds = timeout_seconds
        self.server = server
        self.name = manifests.server_name(request.model)
        self.spec = manifests.build_spec(platform, request)
        self._waiting_for = ""
        self._reported_at = 0.0

    async def run(self) -> dict[str, Any]:
        """Deploy; return the model's URL and which version it replaced.

        Raises:
            DeployFailed: the deploy failed and was rolled back.
            Superseded: a later deploy of the model took over.
        """
        record = await self._start()
        if record.deploy_failure:
            failure = json.loads(record.deploy_failure)
            raise await self._await_rollback(record, DeployFailed(**failure))
        try:
            await self._roll_out(record)
            await self._smoke_test()
        except Superseded:
            raise
        except (DeployFailed, KubeError) as error:
            failed = error if isinstance(error, DeployFailed) else _refusal(error)
            failed.details["log"] = await self._failed_pod_log()
            raise await self._roll_back(record, failed) from error
        return await self._record_success(record)

    async def abandon(self) -> None:
        """Roll back an unfinished deploy of this try without waiting: a user ended the task."""
        record = Record.read(await self.kube.deployment(self.name))
        if record and record.deployed_by == self.token and record.deploy_started:
            await self._restore(record, DeployFailed(Cause.KILLED, "the deploy was ended by a user"))

    async def _start(self) -> Record:
        """The record of this deploy: the existing one after a restart of the triggerer, else a new one."""
        existing = Record.read(await self.kube.deployment(self.name))
        if existing and existing.deployed_by == self.token and self._is_in_progress(existing):
            self.log.info("continuing the deploy after a restart of the triggerer")
            return existing
        if existing and existing.deploy_started:
            by, version = existing.deployed_by, existing.model_version
            self.log.warning("taking over from an unfinished deploy of version %s: %s", version, by)
        previous = existing or Record("", "", "")
        return Record(
            model=self.request.model,
            model_version=self.request.version,
            deployed_by=self.token,
            deploy_started=str(round(time.time())),
            verified_version=previous.verified_version,
            verified_spec=previous.verified_spec,
            replaced_version=previous.replaced_version,
        )

    def _is_in_progress(self, record: Record) -> bool:
        rolling_out = bool(record.deploy_started) and record.model_version == self.request.version
        return rolling_out or bool(record.deploy_failure)

    async def _roll_out(self, record: Record) -> None:
        self.log.info(
            "deploying %s version %s as %s/%s, image %s; it replaces %s",
            *(self.request.model, self.request.version, self.kube.namespace, self.name),
            self.spec["template"]["spec"]["containers"][0]["image"],
            f"version {record.verified_version}" if record.verified_version else "nothing",
        )
        await self._apply(self.spec, record)
        await self.kube.apply(manifests.build_service(self.platform, self.request.model))
        if budget := manifests.build_disruption_budget(self.platform, self.request.model):
            await self.kube.apply(budget)
        else:
            await self.kube.remove("PodDisruptionBudget", self.name)
        await self._await_roll_out(record, float(record.deploy_started) + self.timeout_seconds)
        self.log.info("version %s is rolled out", self.request.version)

    async def _await_roll_out(self, record: Record, until: float) -> None:
        """Wait until all pods are ready and of the record's version; `until` is a UNIX time."""
        since: dict[tuple[str, str], float] = {}
        while True:
            deployment = await self._owned_deployment()
            if manifests.is_rolled_out(deployment):
                return
            reasons = []
            for pod in await self._pods(record.model_version):
                if manifests.is_ready(pod) or pod["metadata"].get("deletionTimestamp"):
                    continue
                name = pod["metadata"]["name"]
                state = since.setdefault((name, manifests.waiting_kind(pod)), time.monotonic())
                if failure := manifests.server_failure(pod, time.monotonic() - state):
                    raise failure
                reasons.append(f"{name}: {manifests.why_not_ready(pod)}")
            self._report_waiting(
                manifests.replica_failure(deployment)
                or "; ".join(reasons)
                or "pods are being created or terminated"
            )
            if time.time() > until:
                raise DeployFailed(Cause.DEADLINE, f"not rolled out in time: {self._waiting_for}", retry=True)
            await asyncio.sleep(POLL_SECONDS)

    async def _smoke_test(self) -> None:
        """Check through the Service, as its clients use it, the version and a prediction for its example."""
        expected = (self.request.model, self.request.version)
        end = time.monotonic() + SMOKE_TEST_SECONDS
        while True:
            try:
                served = await self.server.version()
                if (served.get("model"), served.get("version")) == expected:
                    break
                problem = f"it serves {served.get('model')} version {served.get('version')}"
            except NoAnswer as error:
                problem = str(error)
            if time.monotonic() > end:
                raise DeployFailed(
                    Cause.PLATFORM, f"the Service does not serve the new version: {problem}", retry=True
                )
            await asyncio.sleep(1)
        try:
            example = await self.server.example()
            if example is None:
                self.log.warning("the model has no example: no smoke prediction")
                return
            predictions = await self.server.predict(example)
        except NoAnswer as error:
            raise DeployFailed(Cause.BAD_DATA, f"the smoke prediction failed: {error}") from error
        self.log.info("smoke prediction through %s: %s", self.server.url, json.dumps(predictions)[:200])

    async def _record_success(self, record: Record) -> dict[str, Any]:
        """Record that this version is verified: the next deploy can roll back to it."""
        version = self.request.version
        replaced = record.replaced_version if record.verified_version == version else record.verified_version
        await self._owned_deployment()
        verified = replace(
            record,
            deploy_started="",
            verified_version=version,
            verified_spec=json.dumps(self.spec, sort_keys=True),
            replaced_version=replaced,
        )
        await self._apply(self.spec, verified)
        server = manifests.server_url(manifests.serving_of(self.platform), self.request.model)
        return {
            "url": f"{server}/invocations",
            "model": self.request.model,
            "version": version,
            "replaced_version": replaced or None,
        }

    async def _roll_back(self, record: Record, failed: DeployFailed) -> DeployFailed:
        """Roll back after `failed`; return it with the outcome of the roll-back."""
        self.log.error("%s: %s", failed.cause, failed.message)
        try:
            await self._owned_deployment()
            restored = await self._restore(record, failed)
        except KubeError as error:
            return _with_outcome(failed, f"and the roll-back failed: {error}")
        if restored is None:
            return _with_outcome(failed, "there was no earlier version, so the server was deleted")
        return await self._await_rollback(restored, failed)

    async def _restore(self, record: Record, failed: DeployFailed) -> Record | None:
        """Apply the verified spec again; without one, delete the server and return None."""
        if not record.verified_spec:
            for kind in ("Deployment", "Service", "PodDisruptionBudget"):
                await self.kube.remove(kind, self.name)
            return None
        failure = {"cause": failed.cause, "message": failed.message, "retry": failed.retry}
        restored = replace(
            record,
            model_version=record.verified_version,
            deploy_started="",
            deploy_failure=json.dumps(failure),
        )
        await self._apply(json.loads(record.verified_spec), restored)
        return restored

    async def _await_rollback(self, restored: Record, failed: DeployFailed) -> DeployFailed:
        """Wait until only the earlier version serves; return `failed` with that outcome."""
        version = restored.model_version
        self.log.info("rolling back to version %s", version)
        try:
            await self._await_roll_out(restored, time.time() + ROLLBACK_SECONDS)
        except (DeployFailed, KubeError) as error:
            return _with_outcome(failed, f"and the roll-back to version {version} is not complete: {error}")
        return _with_outcome(failed, f"version {version} goes on serving")

    async def _apply(self, spec: Mapping[str, Any], record: Record) -> None:
        await self.kube.apply(manifests.build_deployment(self.platform, self.request.model, spec, record))

    async def _owned_deployment(self) -> dict[str, Any]:
        """The Deployment. Raises Superseded if another deploy owns it."""
        deployment = await self.kube.deployment(self.name)
        record = Record.read(deployment)
        if deployment is None or record is None:
            raise Superseded(Cause.SUPERSEDED, f"the Deployment {self.name} was deleted")
        if record.deployed_by != self.token:
            raise Superseded(
                Cause.SUPERSEDED,
                f"a later deploy took over: {record.deployed_by} deploys version {record.model_version} of "
                f"{record.model}",
            )
        return deployment

    async def _pods(self, version: str) -> list[dict[str, Any]]:
        return await self.kube.find(manifests.selector(self.request.model, version))

    async def _failed_pod_log(self) -> list[str]:
        """Log the events and last log lines of a server that is not ready; return the lines."""
        try:
            for pod in await self._pods(self.request.version):
                if manifests.is_ready(pod):
                    continue
                name = pod["metadata"]["name"]
                for event in await self.kube.events(name):
                    self.log.info("event: %s", event_line(event))
                if lines := await self._pod_log(pod):
                    for line in lines:
                        self.log.warning("%s | %s", name, line)
                    return lines
        except KubeError as error:
            self.log.warning("the server's log cannot be read: %s", error)
        return []

    async def _pod_log(self, pod: Mapping[str, Any]) -> list[str]:
        name, restarted = pod["metadata"]["name"], manifests.has_restarted(pod)
        lines = await self.kube.tail(name, LAST_LINES, manifests.CONTAINER, previous=restarted)
        if not lines:  # it has just restarted, so the lines are in the other log
            lines = await self.kube.tail(name, LAST_LINES, manifests.CONTAINER, previous=not restarted)
        return [parse_log_line(line)[1] for line in lines]

    def _report_waiting(self, reason: str) -> None:
        """Log what the deploy waits for: if it changed, or after `REMIND_SECONDS`."""
        now = time.monotonic()
        if reason != self._waiting_for or now - self._reported_at > REMIND_SECONDS:
            self.log.info("waiting: %s", reason)
            self._waiting_for, self._reported_at = reason, now


def _refusal(error: KubeError) -> DeployFailed:
    return DeployFailed(
        Cause.PLATFORM if error.temporary else Cause.BAD_CONFIG, str(error), retry=error.temporary
    )


def _with_outcome(failed: DeployFailed, outcome: str) -> DeployFailed:
    """`failed` with the outcome of the roll-back at the end of its message."""
    return DeployFailed(failed.cause, f"{failed.message}; {outcome}", retry=failed.retry, **failed.details)
