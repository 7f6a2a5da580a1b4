"""HTTP requests of a deploy: to MLflow for the version, and to the model server itself."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
from trainyard_contract import ServingPath

from trainyard.failures import Cause
from trainyard.mlflow_client import MlflowClient, MlflowError
from trainyard.serving.manifests import DeployFailed

CALL_SECONDS = 20
# Refusals that may pass while MLflow and what guards it are rolled out.
ALSO_RETRIED = (401, 403, 409)


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
        return await self._request("GET", ServingPath.VERSION)

    async def example(self) -> dict[str, Any] | None:
        """An example of a valid request; None if the model has none. Raises NoAnswer."""
        try:
            return await self._request("GET", ServingPath.EXAMPLE)
        except NoAnswer as error:
            if error.status == 404:
                return None
            raise

    async def predict(self, request: dict[str, Any]) -> Any:
        """The predictions for a request. Raises NoAnswer."""
        response = await self._request("POST", ServingPath.INVOCATIONS, request)
        if "predictions" not in response:
            url, text = self.url + ServingPath.INVOCATIONS, json.dumps(response)
            raise NoAnswer(f"{url}: no predictions in the response {text[:300]}")
        return response["predictions"]

    async def _request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        return await _request(method, self.url + path, body)


async def resolve_version(tracking_uri: str, model: str, version: str) -> str:
    """The number of the version that `version` names: a number itself, or an alias such as champion.

    Raises:
        DeployFailed: the registry has none such, or does not answer.
    """
    wanted = version.removeprefix("@")
    async with MlflowClient(tracking_uri, also_retried=ALSO_RETRIED) as mlflow:
        find = mlflow.get_model_version if wanted.isdigit() else mlflow.get_model_version_by_alias
        try:
            return (await find(model, wanted)).version
        except MlflowError as error:
            if error.temporary:
                raise DeployFailed(Cause.TEMPORARY, f"MLflow does not answer: {error}", retry=True) from error
            message = f"model {model!r} has no version or alias {wanted!r}: {error}"
            raise DeployFailed(Cause.BAD_CONFIG, message) from error


async def _request(method: str, url: str, body: Any = None) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, url, json=body) as response,
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
