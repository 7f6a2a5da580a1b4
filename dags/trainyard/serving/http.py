"""The two servers which a deploy asks over HTTP: MLflow for the version, and the model server itself."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from trainyard.failures import Cause
from trainyard.mlflow_client import MlflowClient, MlflowError
from trainyard.serving.manifests import DeployFailed

CALL_SECONDS = 20
VERSION_HEADER = "trainyard-model-version"
# Refusals that may pass while MLflow and what guards it are rolled out.
ALSO_RETRIED = (401, 403, 409)


class NoAnswer(Exception):
    """The server did not answer, or not with a success; the message says what came.

    `status` is the HTTP status of an answer that was no success; None where none came.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ModelServer:
    """The model server behind one address."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def version(self) -> dict[str, Any]:
        """Which model and version it serves. Raises NoAnswer."""
        return await self._ask("GET", "/version")

    async def example(self) -> dict[str, Any] | None:
        """A request that it can answer; None when the model came without one. Raises NoAnswer."""
        try:
            return await self._ask("GET", "/example")
        except NoAnswer as error:
            if error.status == 404:
                return None
            raise

    async def predict(self, request: dict[str, Any]) -> Any:
        """The predictions for a request. Raises NoAnswer."""
        answer = await self._ask("POST", "/invocations", request)
        if "predictions" not in answer:
            raise NoAnswer(f"{self.url}/invocations answered without predictions: {json.dumps(answer)[:300]}")
        return answer["predictions"]

    async def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        return await _ask(method, self.url + path, body)


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


async def _ask(method: str, url: str, body: Any = None) -> dict[str, Any]:
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
