"""HTTP requests of a deploy: to MLflow for the version, and to the model server itself."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp

from trainyard.failures import Cause
from trainyard.serving.manifests import DeployFailed

MLFLOW_PATIENCE_SECONDS = 120
CALL_SECONDS = 20
LOOK_SECONDS = 2
VERSION_HEADER = "trainyard-model-version"
# HTTP statuses of MLflow after which a retry is useless.
FINAL = (400, 404)


class NoAnswer(Exception):
    """The request failed; `status` is the HTTP status of the response, None if there was none."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ModelServer:
    """Client of a model server."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def version(self) -> dict[str, Any]:
        """Which model and version it serves. Raises NoAnswer."""
        return await self._request("GET", "/version")

    async def example(self) -> dict[str, Any] | None:
        """An example of a valid request; None if the model has none. Raises NoAnswer."""
        try:
            return await self._request("GET", "/example")
        except NoAnswer as error:
            if error.status == 404:
                return None
            raise

    async def predict(self, request: dict[str, Any]) -> Any:
        """The predictions for a request. Raises NoAnswer."""
        response = await self._request("POST", "/invocations", request)
        if "predictions" not in response:
            raise NoAnswer(
                f"{self.url}/invocations: no predictions in the response {json.dumps(response)[:300]}"
            )
        return response["predictions"]

    async def _request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        return await _ask(method, self.url + path, body=body)


async def resolve_version(tracking_uri: str, model: str, version: str) -> str:
    """The number of the version that `version` names: a number itself, or an alias such as champion.

    Raises:
        DeployFailed: the registry has none such, or does not answer.
    """
    wanted, end = version.removeprefix("@"), time.monotonic() + MLFLOW_PATIENCE_SECONDS
    base = f"{tracking_uri.rstrip('/')}/api/2.0/mlflow"
    if wanted.isdigit():
        url, query = f"{base}/model-versions/get", {"name": model, "version": wanted}
    else:
        url, query = f"{base}/registered-models/alias", {"name": model, "alias": wanted}
    while True:
        try:
            return str((await _ask("GET", url, query=query))["model_version"]["version"])
        except NoAnswer as error:
            if error.status in FINAL:
                raise DeployFailed(
                    Cause.BAD_CONFIG,
                    f"model {model!r} has no version or alias {wanted!r}: {error}",
                ) from error
            if time.monotonic() > end:
                raise DeployFailed(Cause.TEMPORARY, f"MLflow does not answer: {error}", retry=True) from error
        await asyncio.sleep(LOOK_SECONDS)


async def _ask(
    method: str, url: str, *, query: dict[str, str] | None = None, body: Any = None
) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, url, params=query, json=body) as response,
        ):
            text = await response.text()
            if response.status != 200:
                raise NoAnswer(f"{url}: HTTP {response.status}: {text[:500]}", response.status)
            answer = json.loads(text)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise NoAnswer(f"{url}: {type(error).__name__}: {error}") from error
    if not isinstance(answer, dict):
        raise NoAnswer(f"{url} answered {text[:200]!r}, not an object")
    return answer
