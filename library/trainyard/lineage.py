"""Lineage: OpenLineage events that link dataset version -> run -> model version.

Airflow's own OpenLineage provider reports what workers do. What starts and ends in the triggerer runs on
none, so its trigger (`triggerer.base`) reports it here; of the control tasks only a promotion is reported.
Without `openlineage.url` in the chart's values nothing is sent; a receiver that is down or hangs costs at
most `SECONDS` per event and a line in the log.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from trainyard.naming import TaskIdentity
from trainyard.platform import Lineage, PlatformError, load_platform

log = logging.getLogger(__name__)
SECONDS = 3.0
PRODUCER = "https://trainyard.dev/lineage"
SPEC = "https://openlineage.io/spec"
EVENT_SCHEMA = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
# Identifies an attempt by its names, so that its start and its end agree even if the triggerer died between.
_RUNS = uuid.uuid5(uuid.NAMESPACE_URL, PRODUCER)

Dataset = dict[str, Any]


async def started(task: TaskIdentity, reads: Iterable[Any]) -> None:
    """Tell that a try of a task begins; `reads` are the URIs of what it reads."""
    await _emit(lambda to: task_event(to, task, "START", inputs=_datasets(reads)))


async def ended(task: TaskIdentity, reads: Iterable[Any], result: Mapping[str, Any]) -> None:
    """Tell that it succeeded, and what it made."""

    def event(to: Lineage) -> dict[str, Any]:
        inputs = _datasets(reads)
        return task_event(to, task, "COMPLETE", inputs=inputs, outputs=_outputs(result, inputs))

    await _emit(event)


async def failed(task: TaskIdentity, reads: Iterable[Any], error: str) -> None:
    """Tell why it did not."""
    await _emit(lambda to: task_event(to, task, "FAIL", inputs=_datasets(reads), error=error))


async def registered(context: Mapping[str, Any], *, model: str, version: str, model_uri: str) -> None:
    """Tell that a task made a version of a model of what was trained.

    Args:
        context: the task's.
        model: the model's name in the registry.
        version: its version.
        model_uri: what `train` returned, whose own event names the data.
    """
    ti = context["ti"]
    map_index = -1 if ti.map_index is None else ti.map_index
    task = TaskIdentity(ti.dag_id, ti.run_id, ti.task_id, map_index, ti.try_number)
    inputs, outputs = _datasets([model_uri]), [_model(model, version)]
    await _emit(lambda to: task_event(to, task, "COMPLETE", inputs=inputs, outputs=outputs))


def task_event(
    to: Lineage,
    task: TaskIdentity,
    event_type: str,
    *,
    inputs: Iterable[Dataset] = (),
    outputs: Iterable[Dataset] = (),
    error: str = "",
) -> dict[str, Any]:
    """One RunEvent of OpenLineage, of a task within its DAG run."""
    run, try_ = f"{task.dag_id}\n{task.run_id}", f"{task.task_id}\n{task.map_index}\n{task.try_number}"
    facets: dict[str, Any] = {
        "parent": _facet(
            "1-2-0/ParentRunFacet",
            run={"runId": str(uuid.uuid5(_RUNS, run))},
            job={"namespace": to.namespace, "name": task.dag_id},
        )
    }
    if error:
        facets["errorMessage"] = _facet(
            "1-0-1/ErrorMessageRunFacet", message=error, programmingLanguage="python"
        )
    return {
        "eventType": event_type,
        "eventTime": datetime.now(UTC).isoformat(),
        "producer": PRODUCER,
        "schemaURL": EVENT_SCHEMA,
        "run": {"runId": str(uuid.uuid5(_RUNS, f"{run}\n{try_}")), "facets": facets},
        "job": {
            "namespace": to.namespace,
            "name": f"{task.dag_id}.{task.task_id}",
            "facets": {
                "jobType": _facet(
                    "2-0-4/JobTypeJobFacet", processingType="BATCH", integration="AIRFLOW", jobType="TASK"
                )
            },
        },
        "inputs": list(inputs),
        "outputs": list(outputs),
    }


def dataset(uri: str, sha256: str = "") -> Dataset | None:
    """The dataset that `uri` names, its version apart; None for what is no URI.

    The same data of another day or content keeps its name: the parts `date=`, `version=` and so on of a path
    are not in it. The version is the content's hash, from the path or else `sha256`.
    """
    parts = urlsplit(uri)
    if not parts.scheme or "{" in uri:
        return None
    if parts.scheme == "models":
        return _registered_or_logged(parts.path.strip("/"))
    path = PurePosixPath(parts.path or "/")
    fields = dict(part.split("=", 1) for part in path.parts if "=" in part)
    names = [part for part in path.parts[: _first_field(path)] if part != "/"]
    if parts.scheme == "file":
        namespace, name = "file", "/" + "/".join(names)
    elif parts.scheme in ("s3", "s3a"):
        namespace, name = f"s3://{parts.netloc}", "/".join(names) or "/"
    else:  # sklearn://digits, generator://transactions?rows=9: the whole address says what the data is
        return _dataset(parts.scheme, "/".join([parts.netloc, *names]), uri, parts.query)
    return _dataset(namespace, name, uri, fields.get("version") or sha256)


def _registered_or_logged(name: str) -> Dataset:
    """`models:/NAME/VERSION` and `models:/NAME@ALIAS`, or `models:/m-ID`, which is not registered (yet)."""
    model, _, version = name.partition("/")
    return _model(model.partition("@")[0], version)


def _model(name: str, version: str) -> Dataset:
    return _dataset("mlflow", name, f"models:/{name}/{version}".rstrip("/"), version)


def _dataset(namespace: str, name: str, uri: str, version: str) -> Dataset:
    facets = {"dataSource": _facet("1-0-1/DatasourceDatasetFacet", name=namespace, uri=uri)}
    if version:
        facets["version"] = _facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=version)
    return {"namespace": namespace, "name": name, "facets": facets}


def _first_field(path: PurePosixPath) -> int:
    return next((at for at, part in enumerate(path.parts) if "=" in part), len(path.parts))


def _outputs(result: Mapping[str, Any], inputs: Iterable[Dataset]) -> list[Dataset]:
    """What a task made: of the URIs that it returns, those that it did not get."""
    sha256 = str(result.get("sha256") or "")
    made = _datasets((result.get(key) for key in ("dataset", "output", "model_uri", "url")), sha256)
    read = {(one["namespace"], one["name"]) for one in inputs}
    return [one for one in made if (one["namespace"], one["name"]) not in read]


def _datasets(uris: Iterable[Any], sha256: str = "") -> list[Dataset]:
    found = [dataset(uri, sha256) for uri in uris if isinstance(uri, str)]
    return [one for one in found if one]


def _facet(schema: str, **values: Any) -> dict[str, Any]:
    name = schema.partition("/")[2]
    return {
        "_producer": PRODUCER,
        "_schemaURL": f"{SPEC}/facets/{schema}.json#/$defs/{name}",
        **values,
    }


async def _emit(event: Callable[[Lineage], dict[str, Any]]) -> None:
    """Send `event(to)`, if somebody wants it. Never raises."""
    try:
        to = load_platform().lineage
        if to is None:
            return
        await _post(f"{to.url.rstrip('/')}/api/v1/lineage", event(to))
    except PlatformError:
        return  # the task itself says so
    except TimeoutError:
        log.warning("no answer from the lineage receiver within %.0f s", SECONDS)
    except Exception as error:
        # The type alone: the text may hold the address, and that a key.
        log.warning("the lineage receiver did not take an event: %s", type(error).__name__)


async def _post(url: str, event: Mapping[str, Any]) -> None:
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(url, json=event, allow_redirects=False) as answer,
    ):
        if answer.status >= 300:
            log.warning("the lineage receiver answered %d", answer.status)
