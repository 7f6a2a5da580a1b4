"""What a try leaves is deleted once Airflow knows how it ended, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.sdk import DAG
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent
from trainyard.platform import Platform
from trainyard.training import trigger as module
from trainyard.training.operator import TrainingPodOperator
from trainyard.training.pod import TrainingRequest, build_pod
from trainyard.training.trigger import TrainingPodTrigger
from trainyard.triggerer import base
from trainyard.triggerer.base import TriggererTask

UID = uuid4()


@pytest.fixture
def trigger(monkeypatch: pytest.MonkeyPatch) -> TrainingPodTrigger:
    """A trigger whose step is done. It notes what is deleted, and when Airflow asked for the task's state."""
    trigger = TrainingPodTrigger({})
    trigger.task_instance = SimpleNamespace(
        dag_id="d", run_id="r", task_id="train", map_index=-1, try_number=1, id=UID, task=None
    )
    trigger.happened = []
    trigger.states = ["deferred", "deferred", "success"]

    async def states(*_: Any, **__: Any) -> dict[str, str]:
        trigger.happened.append("asked")
        if not trigger.states:
            raise ConnectionError("the api-server is away")
        return {"train": trigger.states.pop(0)}

    async def delete(kube: Any, selector: str, *, keep: bool = False) -> None:
        assert f"trainyard.dev/task-instance={UID}" in selector
        trigger.happened.append("kept" if keep else "deleted")

    async def ends(self: Any) -> AsyncIterator[TriggerEvent]:
        yield TaskSuccessEvent()

    class Pods:
        async def __aenter__(self) -> None: ...
        async def __aexit__(self, *error: object) -> None: ...

    monkeypatch.setattr(base, "atask_states", states)
    monkeypatch.setattr(base, "STORE_POLL_SECONDS", 0)
    monkeypatch.setattr(TriggererTask, "run", ends)
    monkeypatch.setattr(module, "delete_leftovers", delete)
    monkeypatch.setattr(module, "_pods", lambda *_: Pods())
    return trigger


async def ended(trigger: TrainingPodTrigger) -> list[str]:
    """What had happened when the trigger had told its event, and what then did."""
    (event,) = [event async for event in trigger.run()]
    assert isinstance(event, TaskSuccessEvent)
    before = list(trigger.happened)
    await asyncio.gather(*module._tidying)
    return before


def test_pods_stay_until_the_end_is_stored(trigger: TrainingPodTrigger) -> None:
    """A triggerer that dies before leaves what the next one needs."""
    assert asyncio.run(ended(trigger)) == []
    assert trigger.happened == ["asked", "asked", "asked", "deleted"]


def test_what_is_kept_stays(trigger: TrainingPodTrigger) -> None:
    trigger._keeps_pods = True
    asyncio.run(ended(trigger))
    assert trigger.happened[-1] == "kept"


def test_a_state_that_cannot_be_read_is_told_and_leaves_it_to_the_reconciler(
    trigger: TrainingPodTrigger, caplog: pytest.LogCaptureFixture
) -> None:
    trigger.states = []
    asyncio.run(ended(trigger))
    assert trigger.happened == ["asked"]
    assert "what TaskIdentity(dag_id='d', run_id='r', task_id='train'" in caplog.text


def test_a_person_who_ends_the_task_ends_what_it_made(trigger: TrainingPodTrigger) -> None:
    trigger.states, trigger._keeps_pods = ["failed"], True
    asyncio.run(trigger.on_kill())
    assert trigger.happened == ["asked", "deleted"]


def test_what_an_author_tries_is_none_of_the_reconcilers_business(
    monkeypatch: pytest.MonkeyPatch, platform: Platform, request_for_train: TrainingRequest
) -> None:
    """`dag.test()` has a database of its own: its pods would be nobody's."""
    tried: list[TrainingPodTrigger] = []

    async def run_here(self: TrainingPodTrigger) -> None:
        tried.append(self)

    monkeypatch.setattr(base, "runs_without_triggerer", lambda: True)
    monkeypatch.setattr(TrainingPodTrigger, "run_here", run_here)
    monkeypatch.setattr(TrainingPodTrigger, "render_template_fields", lambda *_: None)
    ids = {"dag_id": "d", "run_id": "r", "task_id": "train", "map_index": -1, "try_number": 1, "id": UID}
    with DAG("d", schedule=None):
        operator = TrainingPodOperator(
            task_id="train", step="train", dataset="file:///a", output_uri="file:///b", deadline=timedelta(1)
        )
    operator.execute({"ti": SimpleNamespace(**ids, task=None)})
    (trigger,) = tried
    labels = build_pod(platform, request_for_train, trigger.identity)["metadata"]["labels"]
    assert "trainyard.dev/task-instance" not in labels
    trigger.is_here = False
    labels = build_pod(platform, request_for_train, trigger.identity)["metadata"]["labels"]
    assert labels["trainyard.dev/task-instance"] == str(UID)
    assert labels["trainyard.dev/release"] == "trainyard.trainyard"
