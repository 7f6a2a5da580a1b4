"""`WaitForObjectOperator`: waits for an object, on an object store over HTTP."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent, TriggerEvent
from events import is_final_failure
from trainyard.object_store.operator import TRIGGER, WaitForObjectOperator
from trainyard.object_store.trigger import WaitForObjectTrigger

CONNECTION = "store"
MARKER = "s3://incoming/t/date={{ params.day }}/_SUCCESS"


class Trigger(WaitForObjectTrigger):
    """Keeps what it pushes."""

    def __init__(self, request: dict[str, Any]) -> None:
        super().__init__(request)
        self.xcoms: dict[str, Any] = {}

    async def push(self, xcoms: Any, mapped_length: int | None = None) -> None:
        self.xcoms |= xcoms


class Store:
    """An object store that answers HEAD with these statuses, the last one again and again."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.paths: list[str] = []

    async def head(self, request: web.Request) -> web.Response:
        self.paths.append(request.path)
        return web.Response(status=self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])


def waited(
    monkeypatch: pytest.MonkeyPatch,
    store: Store,
    uri: str = MARKER,
    began: timedelta = timedelta(),
    retries: int = 0,
) -> tuple[TriggerEvent, dict[str, Any]]:
    """How the task ends whose run began so long ago, and its XComs."""
    with DAG("d", schedule=None) as dag:
        task = WaitForObjectOperator(
            task_id="wait",
            uri=uri,
            connection=CONNECTION,
            patience=timedelta(hours=1),
            poll=timedelta(seconds=0.01),
            retries=retries,
        )
    arguments = task.start_trigger_args
    assert arguments.trigger_cls == TRIGGER and arguments.timeout > timedelta(hours=1)
    trigger = Trigger(**arguments.trigger_kwargs)
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="wait", map_index=-1, try_number=1, id=uuid4())
    ti.task = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("wait")
    trigger.task_instance = ti
    run = SimpleNamespace(start_date=datetime.now(UTC) - began)
    trigger.render_template_fields({"ti": ti, "params": {"day": "2026-01-03"}, "dag_run": run})

    async def events() -> list[TriggerEvent]:
        app = web.Application()
        app.router.add_route("HEAD", "/{path:.*}", store.head)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        extra = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1"}
        connection = {"conn_type": "aws", "login": "key", "password": "secret", "extra": extra}
        monkeypatch.setenv(f"AIRFLOW_CONN_{CONNECTION.upper()}", json.dumps(connection))
        try:
            return [event async for event in trigger.run()]
        finally:
            await runner.cleanup()

    (event,) = asyncio.run(events())
    return event, trigger.xcoms


def test_it_looks_until_the_object_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(404, 404, 200)
    event, xcoms = waited(monkeypatch, store)
    assert isinstance(event, TaskSuccessEvent) and xcoms == {}
    assert store.paths == ["/incoming/t/date=2026-01-03/_SUCCESS"] * 3


def test_its_patience_counts_from_the_runs_start_and_there_is_no_other_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event, xcoms = waited(monkeypatch, Store(404), began=timedelta(hours=1), retries=2)
    assert is_final_failure(event) and xcoms["failure"]["cause"] == "deadline"
    assert (
        "s3://incoming/t/date=2026-01-03/_SUCCESS is not there, 1:00:00 after" in xcoms["failure"]["message"]
    )


def test_what_is_there_after_all_is_not_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    event, _ = waited(monkeypatch, Store(200), began=timedelta(hours=2))
    assert isinstance(event, TaskSuccessEvent)


def test_a_refusal_goes_through_airflows_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    event, xcoms = waited(monkeypatch, Store(403), retries=2)
    assert isinstance(event, TaskFailedEvent)
    assert xcoms["failure"]["cause"] == "platform" and "403" in xcoms["failure"]["message"]


@pytest.mark.parametrize("uri", ["incoming/x", "s3://incoming", "file:///data/x"])
def test_what_is_no_object_is_refused(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    _, xcoms = waited(monkeypatch, Store(200), uri=uri)
    assert xcoms["failure"]["cause"] == "bad_config" and "s3://BUCKET/KEY" in xcoms["failure"]["message"]
