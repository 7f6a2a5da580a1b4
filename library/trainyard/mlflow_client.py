"""MLflow's REST API for code that runs in the triggerer, where `import mlflow` would take 100 MB.

The methods have the names that they have in `mlflow.MlflowClient`.
"""

from __future__ import annotations

import asyncio
import base64
import configparser
import json
import logging
import os
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from trainyard.failures import Cause, TaskFailed

log = logging.getLogger(__name__)
CALL_SECONDS = 20.0  # for one request
PATIENCE_SECONDS = 120.0  # for a request and its repetitions: MLflow may restart meanwhile
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
PAGE = 1000
# Answers with a client error that another try may not get. 401 is one of them: the kubelet updates the file
# with the password a minute or two after its Secret has come or changed.
TEMPORARY_STATUS = (401, 408, 429)
# Where the chart mounts the Secret `trainyard-promoter` in the triggerer, as a file of MLflow's clients.
CREDENTIALS_FILE = Path("/opt/airflow/mlflow-login/credentials")
ARTIFACTS = "mlflow-artifacts:/"  # artifacts that the server stores itself (--serve-artifacts)

Json = dict[str, Any]


class MlflowError(TaskFailed):
    """MLflow does not answer, or refuses.

    Args:
        message: the request and the answer.
        status: HTTP status of the answer; None when there was none.
        code: MLflow's error code, such as RESOURCE_DOES_NOT_EXIST; empty without one.
        temporary: whether another try may succeed.
    """

    def __init__(
        self, message: str, *, status: int | None = None, code: str = "", temporary: bool = False
    ) -> None:
        super().__init__(Cause.TEMPORARY if temporary else Cause.BAD_CONFIG, message, retry=temporary)
        self.status = status
        self.code = code
        self.temporary = temporary


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model."""

    name: str
    version: str
    source: str = ""
    run_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run of an experiment."""

    run_id: str
    experiment_id: str
    artifact_uri: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class MlflowClient:
    """A client of one MLflow server: `async with MlflowClient(uri) as mlflow`.

    Errors that may pass (no connection, 5xx, 401, 408, 429) are retried with a growing pause. Authentication
    is that of MLflow's own client: MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_USERNAME and _PASSWORD, or its
    credentials file, which the chart mounts.

    Args:
        tracking_uri: the server's address.
        patience: for how many seconds a request is retried; 0 sends it once.
        call_seconds: the longest that one request may take.
        also_retried: more statuses to retry.

    Every method raises `MlflowError`.
    """

    def __init__(
        self,
        tracking_uri: str,
        *,
        patience: float | None = None,
        call_seconds: float | None = None,
        also_retried: Collection[int] = (),
    ) -> None:
        self.base = f"{tracking_uri.rstrip('/')}/api/2.0"
        self.patience = PATIENCE_SECONDS if patience is None else patience
        self.call_seconds = CALL_SECONDS if call_seconds is None else call_seconds
        self.retried = {*TEMPORARY_STATUS, *also_retried}

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self.call_seconds), trust_env=True
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._session.close()

    async def get_model_version_by_alias(self, model: str, alias: str) -> ModelVersion:
        """The version of `model` that has `alias`."""
        found = await self._get("registered-models/alias", name=model, alias=alias)
        return _version(found["model_version"])

    async def get_model_version(self, model: str, version: str) -> ModelVersion:
        """Version number `version` of `model`."""
        return _version((await self._get("model-versions/get", name=model, version=version))["model_version"])

    async def search_model_versions(self, filter_string: str) -> list[ModelVersion]:
        """All versions that match."""
        found: list[ModelVersion] = []
        query = {"filter": filter_string, "max_results": str(PAGE)}
        while True:
            page = await self._get("model-versions/search", **query)
            found += map(_version, page.get("model_versions", []))
            if not (token := page.get("next_page_token")):
                return found
            query["page_token"] = token

    async def create_registered_model(self, name: str) -> None:
        """Make a registered model without versions."""
        await self._send("POST", "registered-models/create", {"name": name})

    async def create_model_version(
        self, model: str, *, source: str, run_id: str, tags: Mapping[str, str], model_id: str | None = None
    ) -> ModelVersion:
        """Make a version of `model` of the files at `source`."""
        body: Json = {"name": model, "source": source, "run_id": run_id, "tags": _pairs(tags)}
        if model_id:
            body["model_id"] = model_id
        return _version((await self._send("POST", "model-versions/create", body))["model_version"])

    async def delete_model_version(self, model: str, version: str) -> None:
        """Remove a version; no error if it is gone."""
        await self._delete("model-versions/delete", name=model, version=version)

    async def set_model_version_tag(self, model: str, version: str, key: str, value: str) -> None:
        """Set a tag of a version."""
        tag = {"name": model, "version": version, "key": key, "value": value}
        await self._send("POST", "model-versions/set-tag", tag)

    async def delete_model_version_tag(self, model: str, version: str, key: str) -> None:
        """Remove a tag of a version; no error if it is gone."""
        await self._delete("model-versions/delete-tag", name=model, version=version, key=key)

    async def set_registered_model_alias(self, model: str, alias: str, version: str) -> None:
        """Let `alias` name `version`."""
        body = {"name": model, "alias": alias, "version": version}
        await self._send("POST", "registered-models/alias", body)

    async def delete_registered_model_alias(self, model: str, alias: str) -> None:
        """Remove an alias; no error if it is gone."""
        await self._delete("registered-models/alias", name=model, alias=alias)

    async def get_run(self, run_id: str) -> Run:
        """The run with that id."""
        return _run((await self._get("runs/get", run_id=run_id))["run"])

    async def get_logged_model_location(self, model_id: str) -> str:
        """Where the files of a logged model are."""
        found = await self._get(f"logged-models/{quote(model_id, safe='')}")
        return str(found["model"]["info"]["artifact_uri"])

    async def get_experiment_id(self, name: str) -> str | None:
        """The id of an experiment; None when there is none of that name."""
        try:
            found = await self._get("experiments/get-by-name", experiment_name=name)
        except MlflowError as error:
            if error.code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return str(found["experiment"]["experiment_id"])

    async def search_runs(self, experiment_id: str, filter_string: str, limit: int = PAGE) -> list[Run]:
        """The runs of an experiment that match, at most `limit` of them."""
        body = {"experiment_ids": [experiment_id], "filter": filter_string, "max_results": limit}
        return [_run(run) for run in (await self._send("POST", "runs/search", body)).get("runs", [])]

    async def set_tag(self, run_id: str, key: str, value: str) -> None:
        """Set a tag of a run."""
        await self._send("POST", "runs/set-tag", {"run_id": run_id, "key": key, "value": value})

    async def log_text(self, run: Run, text: str, path: str) -> None:
        """Store `text` as the artifact `path` of a run."""
        if not run.artifact_uri.startswith(ARTIFACTS):
            raise MlflowError(
                f"artifacts of run {run.run_id} are at {run.artifact_uri}, which the MLflow server does not "
                "serve; start the server with --serve-artifacts"
            )
        folder = run.artifact_uri.removeprefix(ARTIFACTS).lstrip("/")
        await self._call("PUT", f"mlflow-artifacts/artifacts/{quote(f'{folder}/{path}')}", data=text.encode())

    async def _get(self, path: str, **query: str) -> Json:
        return await self._call("GET", f"mlflow/{path}", params=query)

    async def _send(self, method: str, path: str, body: Mapping[str, Any]) -> Json:
        return await self._call(method, f"mlflow/{path}", json=body)

    async def _delete(self, path: str, **body: str) -> None:
        # A repetition of a request whose answer was lost finds nothing any more.
        try:
            await self._send("DELETE", path, body)
        except MlflowError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise

    async def _call(self, method: str, path: str, **request: Any) -> Json:
        """Send a request until it is answered for good, or the patience ends."""
        until, pause = time.monotonic() + self.patience, FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._once(method, f"{self.base}/{path}", request)
            except MlflowError as error:
                wait = random.uniform(pause / 2, pause)
                if not error.temporary or time.monotonic() + wait > until:
                    raise
                log.warning("MLflow does not answer yet: %s", error)
            await asyncio.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _once(self, method: str, url: str, request: Mapping[str, Any]) -> Json:
        shown = _without_password(url)
        try:
            async with self._session.request(method, url, headers=_authorization(), **request) as response:
                status, text = response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # These have the URL as their text, with the password.
            wrong_url = isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError)
            text = "" if wrong_url else f": {error}"
            raise MlflowError(f"{shown}: {type(error).__name__}{text}", temporary=True) from error
        is_upload = "data" in request  # which is answered with nothing
        answer = {} if is_upload and not text else _object(text)
        if status >= 300:
            raise MlflowError(
                f"{shown}: HTTP {status}: {text[:500]}",
                status=status,
                code=str((answer or {}).get("error_code", "")),
                temporary=status >= 500 or status in self.retried,
            )
        if answer is None:
            raise MlflowError(
                f"{shown} answered {text[:200]!r}, not an object", status=status, temporary=True
            )
        return answer


def _without_password(url: str) -> str:
    """`url` for messages, which end up in logs and XComs."""
    try:
        return str(URL(url).with_user(None))
    except ValueError:  # no absolute URL
        return url.rpartition("@")[2]


def _authorization() -> Mapping[str, str]:
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return _basic(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
    file = configparser.ConfigParser(interpolation=None)
    file.read(CREDENTIALS_FILE)  # nothing where there is none
    if file.has_option("mlflow", "mlflow_tracking_username"):
        own = file["mlflow"]
        return _basic(own["mlflow_tracking_username"], own.get("mlflow_tracking_password", ""))
    return {}


def _basic(user: str, password: str) -> Mapping[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def _object(text: str) -> Json | None:
    """The JSON object in `text`; None when it is something else."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _mapping(pairs: list[Json]) -> Json:
    """What MLflow lists as pairs; a value that is empty is left out of them."""
    return {pair["key"]: pair.get("value", "") for pair in pairs}


def _version(found: Json) -> ModelVersion:
    return ModelVersion(
        name=found["name"],
        version=str(found["version"]),
        source=found.get("source", ""),
        run_id=found.get("run_id", ""),
        tags=_mapping(found.get("tags", [])),
    )


def _run(found: Json) -> Run:
    info, data = found["info"], found.get("data", {})
    metrics = {name: float(value) for name, value in _mapping(data.get("metrics", [])).items()}
    return Run(
        run_id=info["run_id"],
        experiment_id=info["experiment_id"],
        artifact_uri=info.get("artifact_uri", ""),
        metrics=metrics,
        tags=_mapping(data.get("tags", [])),
    )
