"""The few Kubernetes calls that the trigger makes, over kubernetes_asyncio, with plain dicts.

Calls are repeated while the API server cannot answer (429, 5xx, no connection), for up to
`PATIENCE_SECONDS`: an upgrade of the control plane must not end a training run.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

import aiohttp
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration

from trainyard.kube.logs import LogPosition
from trainyard.naming import CONTAINER

PATIENCE_SECONDS = 600
CALL_SECONDS = 30
# A silent stream is opened again after this long: a dead node leaves a connection open for ever.
STREAM_SILENCE_SECONDS = 60
# The one kind of patch in use: server-side apply, of JSON, which is YAML as well.
APPLY = "application/apply-patch+yaml"
_UNANSWERED = (aiohttp.ClientError, TimeoutError, ConnectionError, OSError)


class KubeError(Exception):
    """An answer of the API server which is not a success."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"Kubernetes API: {status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def temporary(self) -> bool:
        """Whether the same call may succeed later."""
        # A conflict means that two creations met on one ResourceQuota.
        return self.status == 429 or self.status >= 500 or self.reason == "Conflict"


class Kube:
    """Pods of one namespace. Use as an async context manager."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._pods = f"/api/v1/namespaces/{namespace}/pods"

    async def __aenter__(self) -> Self:
        """Connect: with the pod's ServiceAccount, or outside a cluster with KUBECONFIG."""
        configuration = Configuration()
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(configuration)
        else:
            await config.load_kube_config(client_configuration=configuration)
        self._api = ApiClient(configuration)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self._api.close()

    async def create(self, pod: dict[str, Any]) -> dict[str, Any]:
        """Create a pod; one which is there already, under the same name, is returned as it is."""
        try:
            return await self._call("POST", self._pods, body=pod)
        except KubeError as error:
            if error.reason != "AlreadyExists":
                raise
            return await self.get(pod["metadata"]["name"]) or await self.create(pod)

    async def get(self, name: str) -> dict[str, Any] | None:
        """The pod, or None when there is none."""
        return await self._get_if_there(f"{self._pods}/{name}")

    async def find(self, selector: str) -> list[dict[str, Any]]:
        """All pods with these labels."""
        answer = await self._call("GET", self._pods, {"labelSelector": selector})
        return list(answer["items"])

    async def delete(self, name: str, *, force: bool = False) -> None:
        """Delete a pod if it is there. `force` also forgets one whose node does not answer."""
        query = {"gracePeriodSeconds": "0"} if force else {}
        try:
            await self._call("DELETE", f"{self._pods}/{name}", query)
        except KubeError as error:
            if error.status != 404:
                raise

    async def delete_unchanged(self, pod: dict[str, Any]) -> bool:
        """Delete the pod if it is still as it was read here; False when it has changed since."""
        meta = pod["metadata"]
        only_if = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        try:
            await self._call(
                "DELETE", f"{self._pods}/{meta['name']}", body={"preconditions": only_if}, final=("Conflict",)
            )
        except KubeError as error:
            if error.reason == "Conflict":
                return False
            if error.status != 404:
                raise
        return True

    async def quota_change(self, seconds: float) -> None:
        """Return as soon as a quota of the namespace changes, for instance because a pod ended."""
        query = {"watch": "true", "timeoutSeconds": str(max(1, round(seconds)))}
        path = f"/api/v1/namespaces/{self.namespace}/resourcequotas"
        try:
            async with asyncio.timeout(seconds), aclosing(self._stream(path, query)) as lines:
                async for line in lines:
                    if json.loads(line)["type"] == "MODIFIED":  # ADDED only says what is there
                        return
        except TimeoutError:
            return
        except (*_UNANSWERED, KubeError):
            await asyncio.sleep(seconds)

    async def events(self, name: str, kind: str = "Pod") -> list[dict[str, Any]]:
        """The events of a pod (or of another kind of object), oldest first."""
        answer = await self._call(
            "GET",
            f"/api/v1/namespaces/{self.namespace}/events",
            {"fieldSelector": f"involvedObject.kind={kind},involvedObject.name={name}"},
        )
        return sorted(answer["items"], key=_event_time)

    async def wait(
        self, name: str, until: Callable[[dict[str, Any]], bool], seconds: float
    ) -> dict[str, Any] | None:
        """The pod as soon as `until` holds, or as it is after `seconds`; None once it is gone."""
        end = time.monotonic() + seconds
        while True:
            pod = await self.get(name)
            left = end - time.monotonic()
            if pod is None or until(pod) or left <= 0:
                return pod
            await self._watch_until(pod, until, left)

    async def log_lines(
        self, name: str, position: LogPosition, container: str = CONTAINER
    ) -> AsyncGenerator[str, None]:
        """A container's log lines after `position`, until it ends or the stream breaks.

        A stream that breaks just ends: call again with the same position.
        """
        query = {"container": container, "follow": "true", "timestamps": "true"}
        if position.timestamp:
            query["sinceTime"] = position.timestamp
        position.resume()
        try:
            async with aclosing(self._stream(f"{self._pods}/{name}/log", query)) as lines:
                async for line in lines:
                    timestamp, _, text = line.partition(" ")
                    if not timestamp[:1].isdigit():  # the kubelet's own words, such as why it has no log
                        yield line
                    elif position.is_new(timestamp):
                        yield text
        except _UNANSWERED:
            return

    async def _watch_until(
        self, pod: dict[str, Any], until: Callable[[dict[str, Any]], bool], seconds: float
    ) -> None:
        """Return on the first change that `until` likes, on deletion, or when the watch ends."""
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={pod['metadata']['name']}",
            "resourceVersion": pod["metadata"]["resourceVersion"],
            "timeoutSeconds": str(max(1, round(seconds))),
        }
        try:
            async with asyncio.timeout(seconds), aclosing(self._stream(self._pods, query)) as lines:
                async for line in lines:
                    change = json.loads(line)
                    if change["type"] in ("DELETED", "ERROR") or until(change["object"]):
                        return
        except _UNANSWERED:
            await asyncio.sleep(min(1, seconds))
        except KubeError as error:
            if not error.temporary and error.status != 410:  # 410: the version to watch from is gone
                raise
            await asyncio.sleep(min(1, seconds))

    async def _stream(self, path: str, query: dict[str, str]) -> AsyncGenerator[str, None]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=STREAM_SILENCE_SECONDS)
        response = await self._request("GET", path, query, None, timeout)
        try:
            await _raise_for_status(response)
            rest = b""
            # Not readline(): it refuses lines longer than its buffer.
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
            if rest:
                yield rest.decode(errors="replace")
        finally:
            response.close()

    async def _get_if_there(self, path: str) -> dict[str, Any] | None:
        """What is at the path, or None when there is nothing."""
        try:
            return await self._call("GET", path)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    async def _call(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        final: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """The API's answer, asked again while it is temporary; reasons in `final` are an answer as well."""
        end, pause = time.monotonic() + PATIENCE_SECONDS, 0.5
        while True:
            try:
                timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
                response = await self._request(method, path, query or {}, body, timeout)
                async with response:
                    await _raise_for_status(response)
                    return dict(await response.json())
            except KubeError as error:
                if not error.temporary or error.reason in final or time.monotonic() > end:
                    raise
            except _UNANSWERED as error:
                if time.monotonic() > end:
                    raise KubeError(503, "NoAnswer", f"{method} {path}: {error!r}") from error
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 2, 15)

    async def _request(
        self, method: str, path: str, query: dict[str, str], body: dict[str, Any] | None, timeout: Any
    ) -> aiohttp.ClientResponse:
        content_type = APPLY if method == "PATCH" else "application/json"
        response: aiohttp.ClientResponse = await self._api.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=timeout,
        )
        return response


async def _raise_for_status(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    text = await response.text()
    try:
        status = json.loads(text)
        raise KubeError(response.status, status.get("reason", ""), status.get("message", text))
    except ValueError:
        raise KubeError(response.status, response.reason or "", text[:500]) from None


def _event_time(event: dict[str, Any]) -> str:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return next((moment for moment in times if moment), event["metadata"]["creationTimestamp"])
