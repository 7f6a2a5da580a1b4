"""One try of a deploy: roll the model server out, prove it, or roll it back; no Airflow in here.

What a Deployment's annotations remember (`manifests.Record`) is all the state there is: a triggerer that
starts in the middle reads it and goes on, and of two deploys of one model the later one owns it.
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
from trainyard.kube.logs import readable
from trainyard.kube.status import event_line
from trainyard.platform import Platform
from trainyard.serving import manifests
from trainyard.serving.http import ModelServer, NoAnswer
from trainyard.serving.kube import ServingKube
from trainyard.serving.manifests import DeployFailed, DeployRequest, Record, Superseded

LOOK_SECONDS = 2
REMIND_SECONDS = 60  # how often a reason for waiting which stays the same is logged again
PROOF_SECONDS = 60  # for the Service to lead to the new servers alone
ROLLBACK_SECONDS = 300
LAST_LINES = 20


class DeployRun:
    """Deploys `request`.

    Args:
        kube: the serving namespace.
        platform: how models are served.
        request: what is to serve.
        token: the try of a task on whose behalf; the same again after a restart of the triggerer.
        log: gets what it waits for, and why it fails.
        timeout_seconds: how long the roll-out may take.
        server: the model's Service.
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
        """Deploy; return where the model answers and which version it replaced.

        Raises:
            DeployFailed: it did not come to serve; what served before does so again.
            Superseded: a later deploy of the model took over.
        """
        record = await self._begin()
        if record.deploy_failure:
            failure = json.loads(record.deploy_failure)
            raise await self._back_again(record, DeployFailed(**failure))
        try:
            await self._roll_out(record)
            await self._prove()
        except Superseded:
            raise
        except (DeployFailed, KubeError) as error:
            failed = error if isinstance(error, DeployFailed) else _refusal(error)
            failed.details["log"] = await self._last_words()
            raise await self._undo(record, failed) from error
        return await self._confirm(record)

    async def abandon(self) -> None:
        """Roll back, without waiting, what this try has begun and not ended: a user ended the task."""
        record = Record.read(await self.kube.deployment(self.name))
        if record and record.deployed_by == self.token and record.deploy_started:
            await self._restore(record, DeployFailed(Cause.KILLED, "the deploy was ended by a user"))

    async def _begin(self) -> Record:
        """The record to deploy with: one that an earlier triggerer began, or a new one."""
        known = Record.read(await self.kube.deployment(self.name))
        if known and known.deployed_by == self.token and self._is_begun(known):
            self.log.info("going on with the deploy that an earlier triggerer began")
            return known
        if known and known.deploy_started:
            by, version = known.deployed_by, known.model_version
            self.log.warning("taking over from an unfinished deploy of version %s: %s", version, by)
        kept = known or Record("", "", "")
        return Record(
            model=self.request.model,
            model_version=self.request.version,
            deployed_by=self.token,
            deploy_started=str(round(time.time())),
            verified_version=kept.verified_version,
            verified_spec=kept.verified_spec,
            replaced_version=kept.replaced_version,
        )

    def _is_begun(self, known: Record) -> bool:
        underway = bool(known.deploy_started) and known.model_version == self.request.version
        return underway or bool(known.deploy_failure)

    async def _roll_out(self, record: Record) -> None:
        self.log.info(
            "deploying %s version %s as %s/%s, image %s; it replaces %s",
            *(self.request.model, self.request.version, self.kube.namespace, self.name),
            self.spec["template"]["spec"]["containers"][0]["image"],
            f"version {record.verified_version}" if record.verified_version else "nothing",
        )
        await self._apply(self.spec, record)
        await self.kube.apply(manifests.build_service(self.platform, self.request.model))
        await self._await_roll_out(record, float(record.deploy_started) + self.timeout_seconds)
        self.log.info("version %s is rolled out", self.request.version)

    async def _await_roll_out(self, record: Record, until: float) -> None:
        """Wait until only ready pods of the record's version are left; `until` is a time of the clock."""
        since: dict[tuple[str, str], float] = {}
        while True:
            deployment = await self._own_deployment()
            if manifests.is_rolled_out(deployment):
                return
            waits = []
            for pod in await self._pods(record.model_version):
                if manifests.is_ready(pod) or pod["metadata"].get("deletionTimestamp"):
                    continue
                name = pod["metadata"]["name"]
                state = since.setdefault((name, manifests.waiting_kind(pod)), time.monotonic())
                if failure := manifests.server_failure(pod, time.monotonic() - state):
                    raise failure
                waits.append(f"{name}: {manifests.why_not_ready(pod)}")
            self._report(manifests.refused(deployment) or "; ".join(waits) or "pods to come or go")
            if time.time() > until:
                raise DeployFailed(Cause.DEADLINE, f"not rolled out in time: {self._waiting_for}", retry=True)
            await asyncio.sleep(LOOK_SECONDS)

    async def _prove(self) -> None:
        """Ask the Service, as any user of the model does: for its version, and to answer its example."""
        expected = (self.request.model, self.request.version)
        end = time.monotonic() + PROOF_SECONDS
        while True:
            try:
                told = await self.server.version()
                if (told.get("model"), told.get("version")) == expected:
                    break
                problem = f"the Service answers for {told.get('model')} version {told.get('version')}"
            except NoAnswer as error:
                problem = str(error)
            if time.monotonic() > end:
                raise DeployFailed(Cause.PLATFORM, f"no sign of the new version: {problem}", retry=True)
            await asyncio.sleep(1)
        try:
            example = await self.server.example()
            if example is None:
                self.log.warning("the model came without an example: no smoke prediction")
                return
            predictions = await self.server.predict(example)
        except NoAnswer as error:
            raise DeployFailed(Cause.BAD_DATA, f"the smoke prediction failed: {error}") from error
        self.log.info("smoke prediction through %s: %s", self.server.url, json.dumps(predictions)[:200])

    async def _confirm(self, record: Record) -> dict[str, Any]:
        """Remember that this version serves well: the next deploy can roll back to it."""
        version = self.request.version
        replaced = record.replaced_version if record.verified_version == version else record.verified_version
        await self._own_deployment()
        done = replace(
            record,
            deploy_started="",
            verified_version=version,
            verified_spec=json.dumps(self.spec, sort_keys=True),
            replaced_version=replaced,
        )
        await self._apply(self.spec, done)
        server = manifests.server_url(manifests.serving_of(self.platform), self.request.model)
        return {
            "url": f"{server}/invocations",
            "model": self.request.model,
            "version": version,
            "replaced_version": replaced or None,
        }

    async def _undo(self, record: Record, failed: DeployFailed) -> DeployFailed:
        """Roll back after `failed`; return it with how that went."""
        self.log.error("%s: %s", failed.cause, failed.message)
        try:
            await self._own_deployment()
            back = await self._restore(record, failed)
        except KubeError as error:
            return _told(failed, f"and the roll-back failed: {error}")
        if back is None:
            return _told(failed, "nothing served before, so the server was removed")
        return await self._back_again(back, failed)

    async def _restore(self, record: Record, failed: DeployFailed) -> Record | None:
        """Put back what served before; None when nothing did, and the server is removed."""
        if not record.verified_spec:
            await self.kube.remove("Deployment", self.name)
            await self.kube.remove("Service", self.name)
            return None
        failure = {"cause": failed.cause, "message": failed.message, "retry": failed.retry}
        back = replace(
            record,
            model_version=record.verified_version,
            deploy_started="",
            deploy_failure=json.dumps(failure),
        )
        await self._apply(json.loads(record.verified_spec), back)
        return back

    async def _back_again(self, back: Record, failed: DeployFailed) -> DeployFailed:
        """Wait until the version before serves alone; return `failed`, which says so."""
        self.log.info("rolling back to version %s", back.model_version)
        try:
            await self._await_roll_out(back, time.time() + ROLLBACK_SECONDS)
        except (DeployFailed, KubeError) as error:
            return _told(failed, f"and the roll-back to version {back.model_version} is not done: {error}")
        return _told(failed, f"version {back.model_version} goes on serving")

    async def _apply(self, spec: Mapping[str, Any], record: Record) -> None:
        await self.kube.apply(manifests.build_deployment(self.platform, self.request.model, spec, record))

    async def _own_deployment(self) -> dict[str, Any]:
        """The Deployment. Raises Superseded when it is no longer this try's."""
        deployment = await self.kube.deployment(self.name)
        record = Record.read(deployment)
        if deployment is None or record is None:
            raise Superseded("superseded", f"the Deployment {self.name} was deleted meanwhile")
        if record.deployed_by != self.token:
            raise Superseded(
                "superseded",
                f"{record.deployed_by} deploys version {record.model_version} of {record.model} since; "
                "its outcome counts",
            )
        return deployment

    async def _pods(self, version: str) -> list[dict[str, Any]]:
        return await self.kube.find(manifests.selector(self.request.model, version))

    async def _last_words(self) -> list[str]:
        """Log the events and last lines of a server that is not ready; return the lines."""
        try:
            for pod in await self._pods(self.request.version):
                if manifests.is_ready(pod):
                    continue
                name = pod["metadata"]["name"]
                for event in await self.kube.events(name):
                    self.log.info("event: %s", event_line(event))
                if lines := await self._log_of(pod):
                    for line in lines:
                        self.log.warning("%s | %s", name, line)
                    return lines
        except KubeError as error:
            self.log.warning("the server's log cannot be read: %s", error)
        return []

    async def _log_of(self, pod: Mapping[str, Any]) -> list[str]:
        name, restarted = pod["metadata"]["name"], manifests.has_restarted(pod)
        lines = await self.kube.last_lines(name, LAST_LINES, previous=restarted)
        if not lines:  # it restarts at this very moment: the words are in the other log
            lines = await self.kube.last_lines(name, LAST_LINES, previous=not restarted)
        return [readable(line)[1] for line in lines]

    def _report(self, reason: str) -> None:
        """Log what it waits for, when that changes and now and then while it does not."""
        now = time.monotonic()
        if reason != self._waiting_for or now - self._reported_at > REMIND_SECONDS:
            self.log.info("waiting: %s", reason)
            self._waiting_for, self._reported_at = reason, now


def _refusal(error: KubeError) -> DeployFailed:
    return DeployFailed(
        Cause.PLATFORM if error.temporary else Cause.BAD_CONFIG, str(error), retry=error.temporary
    )


def _told(failed: DeployFailed, end: str) -> DeployFailed:
    """`failed` with what became of the service at the end of its message."""
    return DeployFailed(failed.cause, f"{failed.message}; {end}", retry=failed.retry, **failed.details)
