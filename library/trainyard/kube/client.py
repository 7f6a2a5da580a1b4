"""The Kubernetes API calls that triggers make, over kubernetes_asyncio, with plain dicts.

Calls are retried for up to `RETRY_SECONDS` while the API server is not available (429, 5xx, no connection):
an upgrade of the control plane, or an outage, must not end a training run, whose pods go on. While it takes
the client for a stranger (401, 403), they are retried for `RIGHTS_SECONDS`: a token or Role may be replaced.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration

from trainyard.kube.logs import LogPosition, Piece, pieces, unread
from trainyard.naming import CONTAINER, LABEL_PREFIX

RETRY_SECONDS = 3600
RIGHTS_SECONDS = 120
CALL_SECONDS = 30
NODE_SECONDS = 12  # how long a node is asked whether it is there
NODE_PAUSE_SECONDS = 3  # and how long after an answer that it is not
# A log without data is reopened after this long: a dead node leaves its connection open for ever.
STREAM_SILENCE_SECONDS = 60
# The only kind of patch in use is server-side apply. JSON is valid YAML.
APPLY = "application/apply-patch+yaml"
log = logging.getLogger(__name__)
_CONNECTION_ERRORS = (aiohttp.ClientError, TimeoutError, ConnectionError, OSError)


class KubeError(Exception):
    """The API server returned an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"Kubernetes API: {status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def temporary(self) -> bool:
        """Whether the same call may succeed later."""
        # A conflict here means that two requests updated the same ResourceQuota at once.
        return self.status == 429 or self.status >= 500 or self.reason == "Conflict"


class Kube:
    """Client for the pods of one namespace. Use as an async context manager."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._pods = f"/api/v1/namespaces/{namespace}/pods"

    async def __aenter__(self) -> Self:
        """Connect with the pod's ServiceAccount; outside a cluster, with KUBECONFIG."""
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

    async def get(self, name: str) -> dict[str, Any] | None:
        """The pod, or None if it does not exist."""
        return await self._get_or_none(f"{self._pods}/{name}")

    async def find(self, selector: str) -> list[dict[str, Any]]:
        """All pods that match the label selector."""
        return list((await self._call("GET", self._pods, {"labelSelector": selector}))["items"])

    async def delete(self, name: str, *, force: bool = False) -> None:
        """Delete a pod if it exists. `force` does not wait for its node, which may be lost."""
        query = {"gracePeriodSeconds": "0"} if force else {}
        await self._delete_if_exists(f"{self._pods}/{name}", query)

    async def delete_if_unchanged(self, pod: Mapping[str, Any]) -> bool:
        """Delete the pod unless it has changed since it was read; return whether it was deleted."""
        return await self._delete_if_unchanged(self._pods, pod)

    async def _delete_if_unchanged(self, path: str, found: Mapping[str, Any]) -> bool:
        meta = found["metadata"]
        only_if = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        body = {"preconditions": only_if, "propagationPolicy": "Background"}
        try:
            await self._call("DELETE", f"{path}/{meta['name']}", body=body, final=("Conflict",))
        except KubeError as error:
            if error.reason == "Conflict":
                return False
            if error.status != 404:
                raise
        return True

    async def events(self, name: str, kind: str = "Pod") -> list[dict[str, Any]]:
        """The events of a pod (or of another kind of object), oldest first."""
        response = await self._call(
            "GET",
            f"/api/v1/namespaces/{self.namespace}/events",
            {"fieldSelector": f"involvedObject.kind={kind},involvedObject.name={name}"},
        )
        return sorted(response["items"], key=_event_time)

    async def tell(self, kind: str, obj: Mapping[str, Any], reason: str, message: str) -> None:
        """Make a warning event about a Pod or Job, which `kubectl describe` and `kubectl events` show."""
        meta, moment = obj["metadata"], datetime.now(UTC).isoformat(timespec="microseconds")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{meta['name']}.", "namespace": self.namespace},
            "involvedObject": {
                "apiVersion": "batch/v1" if kind == "Job" else "v1",
                "kind": kind,
                "namespace": self.namespace,
                "name": meta["name"],
                "uid": meta["uid"],
            },
            "type": "Warning",
            "reason": reason,
            "action": reason,
            "message": message,
            "eventTime": moment,
            "reportingComponent": f"{LABEL_PREFIX}/trainyard",
            "reportingInstance": os.environ.get("HOSTNAME", "trainyard"),
        }
        await self._call("POST", f"/api/v1/namespaces/{self.namespace}/events", body=event)

    async def watch(self, selector: str, until: Callable[[list[Any]], bool], seconds: float) -> None:
        """Show `until` the pods that match the label selector, now and after every change.

        Ends when it returns true, or after `seconds`. A pod that is deleted is shown as it was at the end,
        and then no more.
        """
        await self._watch(self._pods, {"labelSelector": selector}, until, seconds)

    async def _watch(
        self, path: str, which: Mapping[str, str], until: Callable[[list[Any]], bool], seconds: float
    ) -> None:
        """Show `until` the objects of a collection, now and after every change."""
        end = time.monotonic() + seconds
        while True:
            answer = await self._call("GET", path, dict(which))
            found = {each["metadata"]["uid"]: each for each in answer["items"]}
            left = end - time.monotonic()
            if until(list(found.values())) or left <= 0:
                return
            since = {"watch": "true", "resourceVersion": answer["metadata"]["resourceVersion"]}
            # Rounded up: a watch that the server ends before its time is made again, for the rest.
            query = {**which, **since, "timeoutSeconds": str(math.ceil(left))}
            # What a watch has shown until its end is not asked for again: who goes on looking asks anyway.
            if await self._show_changes(path, query, found, until, left) or time.monotonic() >= end:
                return

    async def log_lines(
        self, name: str, position: LogPosition, container: str = CONTAINER
    ) -> AsyncGenerator[str, None]:
        """A container's log lines after `position`, until the container ends or the stream breaks.

        A broken stream is no error: call again with the same position.
        """
        query = {"container": container, "follow": "true", "timestamps": "true"}
        if position.timestamp:
            query["sinceTime"] = position.timestamp
        position.resume()
        try:
            async with aclosing(self._log(name, query)) as log:
                async for piece in log:
                    if (line := unread(piece, position)) is not None:
                        yield line
        except _CONNECTION_ERRORS:
            return

    async def tail(
        self, name: str, lines: int, container: str = CONTAINER, *, previous: bool = False
    ) -> list[str]:
        """The last lines of a container's log, or of the `previous` container's; [] if there is no log."""
        query = {"container": container, "tailLines": str(lines), "previous": str(previous).lower()}
        found = []
        # The log explains a failure; reading it must not cause another one.
        with suppress(*_CONNECTION_ERRORS, KubeError):
            async with aclosing(self._log(name, query)) as log:
                async for piece in log:
                    found.append(piece.text)
        return found[-lines:]

    async def node_answers(self, name: str, container: str = CONTAINER) -> bool:
        """Whether the kubelet of a pod's node answers: the API server asks it for a line of the log.

        It is asked several times, as the API server's own failure looks the same.
        """
        query = {"container": container, "tailLines": "1"}
        try:
            async with asyncio.timeout(NODE_SECONDS):
                while (await self._status_of(f"{self._pods}/{name}/log", query)) >= 500:
                    await asyncio.sleep(NODE_PAUSE_SECONDS)
        except TimeoutError:
            return False
        except _CONNECTION_ERRORS:  # the API server itself does not answer, which says nothing of the node
            return True
        return True

    async def _status_of(self, path: str, query: dict[str, str]) -> int:
        timeout = aiohttp.ClientTimeout(total=NODE_SECONDS)
        async with await self._request("GET", path, query, None, timeout) as answer:
            return answer.status

    async def _log(self, name: str, query: dict[str, str]) -> AsyncGenerator[Piece, None]:
        async with aclosing(self._chunks(f"{self._pods}/{name}/log", query)) as chunks:
            async for piece in pieces(chunks):
                yield piece

    async def _show_changes(
        self,
        path: str,
        query: dict[str, str],
        found: dict[str, Any],
        until: Callable[[list[Any]], bool],
        seconds: float,
    ) -> bool:
        """Show `until` the objects, by UID, after every change; return whether it became true."""
        try:
            async with asyncio.timeout(seconds), aclosing(self._stream(path, query, seconds)) as lines:
                async for line in lines:
                    change = json.loads(line)
                    if change["type"] == "ERROR":  # such as that the version has expired
                        break
                    uid = change["object"]["metadata"]["uid"]
                    found[uid] = change["object"]
                    if until(list(found.values())):
                        return True
                    if change["type"] == "DELETED":
                        del found[uid]
                        if until(list(found.values())):
                            return True
        except TimeoutError:
            return False
        except (*_CONNECTION_ERRORS, KubeError) as error:
            if isinstance(error, KubeError) and not error.temporary and error.status != 410:
                raise
        await asyncio.sleep(min(1, seconds))  # the API server ended it, and may be busy
        return False

    async def _stream(self, path: str, query: dict[str, str], silence: float) -> AsyncGenerator[str, None]:
        """Lines of any length: each is an object in JSON."""
        rest = b""
        async with aclosing(self._chunks(path, query, silence)) as chunks:
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")

    async def _chunks(
        self, path: str, query: dict[str, str], silence: float = STREAM_SILENCE_SECONDS
    ) -> AsyncGenerator[bytes, None]:
        """What comes, until the server ends it or says nothing for so many seconds."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silence)
        response = await self._request("GET", path, query, None, timeout)
        try:
            await _raise_for_status(response)
            # Not readline(): it refuses lines longer than its buffer.
            async for chunk in response.content.iter_any():
                yield chunk
        finally:
            response.close()

    async def _create_or_get(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Create the object in the collection at the path; if it exists, return it unchanged."""
        while True:
            try:
                return await self._call("POST", path, body=manifest)
            except KubeError as error:
                if error.reason != "AlreadyExists":
                    raise
            if existing := await self._get_or_none(f"{path}/{manifest['metadata']['name']}"):
                return existing

    async def _get_or_none(self, path: str) -> dict[str, Any] | None:
        """The object at the path, or None if it does not exist."""
        try:
            return await self._call("GET", path)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    async def _delete_if_exists(self, path: str, query: dict[str, str]) -> None:
        """Delete the object at the path; do nothing if it does not exist."""
        try:
            await self._call("DELETE", path, query)
        except KubeError as error:
            if error.status != 404:
                raise

    async def _call(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        final: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """Call the API and retry after temporary errors, except those whose reason is in `final`."""
        start, pause = time.monotonic(), 0.5
        warn = log.warning
        while True:
            try:
                timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
                response = await self._request(method, path, query or {}, body, timeout)
                async with response:
                    await _raise_for_status(response)
                    return dict(await response.json())
            except KubeError as error:
                patience = _patience(error, method)
                if error.reason in final or time.monotonic() - start >= patience:
                    raise
                if error.reason != "Conflict":
                    warn("%s %s is tried again for %d s: %s", method, path, patience, error)
            except _CONNECTION_ERRORS as error:
                if time.monotonic() - start >= RETRY_SECONDS:
                    raise KubeError(503, "NoAnswer", f"{method} {path}: {error!r}") from error
                warn("%s %s is tried again for %d s: %r", method, path, RETRY_SECONDS, error)
            warn = log.debug  # once is enough
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


def _patience(error: KubeError, method: str) -> float:
    """For how many seconds a call that ended with this error is made again."""
    if error.temporary:
        return RETRY_SECONDS
    # What is created may also be forbidden for what it is: by a quota, Pod Security or a policy.
    is_stranger = error.status == 401 or (error.status == 403 and method != "POST")
    return RIGHTS_SECONDS if is_stranger else 0


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
