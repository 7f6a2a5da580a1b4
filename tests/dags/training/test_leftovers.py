"""What a try leaves is deleted once Airflow knows how it ended, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent
from trainyard.training import trigger as module
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
    monkeypatch.setattr(module, "load_platform", lambda: None)
    return trigger


async def until_told(trigger: TrainingPodTrigger) -> Any:
    """The trigger's run, after its event."""
    events = trigger.run()
    assert isinstance(await anext(events), TaskSuccessEvent)
    return events


def test_pods_stay_until_the_end_is_stored(trigger: TrainingPodTrigger) -> None:
    async def run() -> None:
        events = await until_told(trigger)
        assert trigger.happened == [], "a triggerer that dies now leaves what the next one needs"
        assert [event async for event in events] == []

    asyncio.run(run())
    assert trigger.happened == ["asked", "asked", "asked", "deleted"]


def test_a_state_that_cannot_be_read_ends_the_trigger_in_peace(trigger: TrainingPodTrigger) -> None:
    """Its event has been told. The reconciler deletes what is left."""
    trigger.states = []

    async def run() -> None:
        assert [event async for event in await until_told(trigger)] == []

    asyncio.run(run())
    assert trigger.happened == ["asked"]


@pytest.mark.parametrize(("ended", "keeps", "then"), [(True, True, "kept"), (False, True, "deleted")])
def test_a_trigger_that_is_taken_away_deletes_what_is_not_kept(
    trigger: TrainingPodTrigger, ended: bool, keeps: bool, then: str
) -> None:
    """Airflow takes a trigger away as soon as it has stored its event, and when a person ends the task."""
    trigger.states, trigger._keeps_pods = ["failed"], keeps

    async def run() -> None:
        if ended:
            await until_told(trigger)
        await trigger.on_kill()

    asyncio.run(run())
    assert trigger.happened[-1] == then
