"""Lineage events against a real local receiver and what OpenLineage's specification requires."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from receiver import listening
from trainyard import lineage
from trainyard.naming import TaskIdentity
from trainyard.serving.trigger import DeployModelTrigger
from trainyard.training.trigger import TrainingPodTrigger

PROCESSED = "file:///data/processed/digits/date=2026-11-21/version=0123456789ab"
READS = [PROCESSED, None]
TRAINED = {"model_uri": "models:/m-1f", "val_f1_macro": 0.9}


def check_facets(facets: dict[str, Any]) -> None:
    for name, facet in facets.items():
        assert facet["_producer"].startswith("https://"), name
        assert facet["_schemaURL"].startswith("https://openlineage.io/spec/facets/"), name


def check_event(event: dict[str, Any]) -> None:
    """Everything that RunEvent 2-0-2 requires."""
    assert event["eventType"] in ("START", "COMPLETE", "FAIL")
    assert datetime.fromisoformat(event["eventTime"]).tzinfo
    assert event["producer"].startswith("https://")
    assert event["schemaURL"] == "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
    uuid.UUID(event["run"]["runId"])
    parent = event["run"]["facets"]["parent"]
    uuid.UUID(parent["run"]["runId"])
    for job in (event["job"], parent["job"]):
        assert job["namespace"] and job["name"]
    check_facets(event["run"]["facets"])
    check_facets(event["job"]["facets"])
    for dataset in (*event["inputs"], *event["outputs"]):
        assert dataset["namespace"] and dataset["name"]
        check_facets(dataset["facets"])


def named(datasets: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Namespace, name and version of each."""
    return [
        (one["namespace"], one["name"], one["facets"].get("version", {}).get("datasetVersion", ""))
        for one in datasets
    ]


def test_a_training_task_links_its_data_to_its_model(receive: Any, identity: TaskIdentity) -> None:
    async def task() -> None:
        await lineage.started(identity, READS)
        await lineage.ended(identity, READS, TRAINED)

    with listening(201) as receiver:
        receive(receiver.url)
        asyncio.run(task())
    assert receiver.paths == ["/api/v1/lineage"] * 2
    start, end = receiver.got
    check_event(start)
    check_event(end)
    assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == end["run"]["runId"]
    assert end["job"]["name"] == "digits_training.train"
    assert end["run"]["facets"]["parent"]["job"] == {"namespace": "ty", "name": "digits_training"}
    assert named(end["inputs"]) == [("file", "/data/processed/digits", "0123456789ab")]
    assert named(end["outputs"]) == [("mlflow", "m-1f", "")]


def test_registration_links_the_trained_model_to_its_version(receive: Any) -> None:
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="register", map_index=None, try_number=1, id=uuid4())
    with listening(201) as receiver:
        receive(receiver.url)
        asyncio.run(lineage.registered({"ti": ti}, model="digits", version="3", model_uri="models:/m-1f"))
    (event,) = receiver.got
    check_event(event)
    assert named(event["inputs"]) == [("mlflow", "m-1f", "")]
    assert named(event["outputs"]) == [("mlflow", "digits", "3")]


@pytest.mark.parametrize(
    ("version", "read"), [("3", ("mlflow", "fraud", "3")), ("champion", ("mlflow", "fraud", ""))]
)
def test_a_deploy_links_the_version_to_its_server(
    receive: Any, identity: TaskIdentity, version: str, read: tuple[str, str, str]
) -> None:
    result = {"url": "http://fraud.ml-serving:8080/invocations", "model": "fraud", "version": "3"}
    with listening(201) as receiver:
        receive(receiver.url)
        reads = DeployModelTrigger({"model": "fraud", "version": version}).reads()
        asyncio.run(lineage.ended(identity, reads, result))
    (event,) = receiver.got
    check_event(event)
    assert named(event["inputs"]) == [read]
    assert named(event["outputs"]) == [("http", "fraud.ml-serving:8080/invocations", "")]


def test_a_failure_says_why(receive: Any, identity: TaskIdentity) -> None:
    with listening(201) as receiver:
        receive(receiver.url)
        asyncio.run(lineage.failed(identity, READS, "bad_data: no rows"))
    (event,) = receiver.got
    check_event(event)
    assert event["eventType"] == "FAIL" and event["outputs"] == []
    assert event["run"]["facets"]["errorMessage"]["message"] == "bad_data: no rows"


def test_tries_of_a_task_are_runs_of_one_job_in_one_dag_run(receive: Any, identity: TaskIdentity) -> None:
    with listening(201) as receiver:
        receive(receiver.url)
        for try_number in (1, 2):
            asyncio.run(lineage.started(replace(identity, try_number=try_number), READS))
    first, second = receiver.got
    assert first["run"]["runId"] != second["run"]["runId"]
    assert first["job"] == second["job"]
    assert first["run"]["facets"]["parent"] == second["run"]["facets"]["parent"]


def test_what_a_step_got_is_not_what_it_made() -> None:
    request = {"dataset": PROCESSED, "step_params": {"model_uri": "models:/m-1f"}}
    result = {"model_uri": "models:/m-1f", "output": "file:///data/predictions/digits/date=2026-11-21/x=1"}
    outputs = lineage._outputs(result, lineage._datasets(TrainingPodTrigger(request).reads()))
    assert named(outputs) == [("file", "/data/predictions/digits", "")]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (PROCESSED, ("file", "/data/processed/digits", "0123456789ab")),
        ("file:///data/incoming/t/date=2026-11-21/t.csv", ("file", "/data/incoming/t", "hash")),
        ("s3://lake/raw/t/date=2026-11-21/version=ab", ("s3://lake", "raw/t", "ab")),
        ("sklearn://digits", ("sklearn", "digits", "")),
        ("generator://transactions?rows=9&seed=1", ("generator", "transactions", "rows=9&seed=1")),
        ("models:/fraud/3", ("mlflow", "fraud", "3")),
        ("models:/fraud@champion", ("mlflow", "fraud", "")),
    ],
)
def test_a_uri_names_a_dataset_apart_from_its_version(uri: str, expected: tuple[str, str, str]) -> None:
    dataset = lineage.dataset(uri, "hash")
    assert dataset
    assert named([dataset]) == [expected]
    assert dataset["facets"]["dataSource"]["uri"] == uri.replace("@champion", "")


@pytest.mark.parametrize("uri", ["", "nothing", "{{ ti.xcom_pull('validate') }}", "file:///{{ x }}"])
def test_what_is_no_uri_is_no_dataset(uri: str) -> None:
    assert lineage.dataset(uri) is None


def test_a_request_that_could_not_be_rendered_has_a_run_all_the_same(
    receive: Any, identity: TaskIdentity
) -> None:
    broken = {"dataset": "{{ nothing }}", "step_params": "{{ neither }}"}
    with listening(201) as receiver:
        receive(receiver.url)
        asyncio.run(lineage.failed(identity, TrainingPodTrigger(broken).reads(), "nothing is undefined"))
    check_event(receiver.got[0])
    assert receiver.got[0]["inputs"] == []


def test_it_is_off_by_default(identity: TaskIdentity, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="trainyard.lineage"):
        asyncio.run(lineage.started(identity, READS))
    assert caplog.records == []


@pytest.mark.parametrize(
    ("answer", "said"), [("hang", "no answer"), (500, "answered 500"), (302, "answered 302")]
)
def test_a_receiver_in_trouble_hurts_nobody(
    receive: Any,
    identity: TaskIdentity,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: int | str,
    said: str,
) -> None:
    if answer == "hang":
        monkeypatch.setattr(lineage, "SECONDS", 0.2)
    begun = time.monotonic()
    with listening(answer, location="http://127.0.0.1:9/") as receiver:
        receive(receiver.url)
        asyncio.run(lineage.started(identity, READS))
    assert said in caplog.text
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[S3CRET", "marquez"])
def test_one_that_is_not_there_hurts_nobody(
    receive: Any, identity: TaskIdentity, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    receive(url)
    asyncio.run(lineage.ended(identity, READS, TRAINED))
    assert "did not take an event" in caplog.text
    assert "S3CRET" not in caplog.text
