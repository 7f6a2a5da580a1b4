"""An alert when tasks wait for room in the triggerers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from airflow.models.trigger import Trigger
from receiver import Receiver, listening
from sqlalchemy import delete, update
from sqlalchemy.orm import Session
from trainyard.alerts import room


@pytest.fixture
def waits(session: Session) -> Callable[..., None]:
    """Stores a trigger that has waited for a triggerer so long."""

    def _waits(**time: float) -> None:
        created = datetime.now(UTC) - timedelta(**time)
        session.add(Trigger(classpath="a.B", kwargs={}, created_date=created))
        session.commit()

    return _waits


@pytest.fixture
def receiver(secret: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """The webhook of the alerts, of a watch that looks at each poll."""
    monkeypatch.setattr(room, "LOOK_SECONDS", 0)
    with listening() as receiver:
        (secret / "webhook-url").write_text(receiver.url)
        yield receiver


def wait_for(receiver: Receiver, number: int) -> None:
    """Until so many alerts have come, which a thread sends."""
    until = time.monotonic() + 30
    while len(receiver.got) < number:
        assert time.monotonic() < until, "no alert came"
        time.sleep(0.01)


def test_tasks_that_wait_for_a_triggerer_are_told_once_and_their_end_too(
    session: Session, waits: Callable[..., None], receiver: Receiver
) -> None:
    watch = room.RoomWatch()
    waits(minutes=4)
    watch.look(100, session)
    waits(minutes=7)
    for _ in range(3):
        watch.look(100, session)
    wait_for(receiver, 1)
    session.execute(update(Trigger).values(triggerer_id=1))
    watch.look(100, session)
    wait_for(receiver, 2)
    session.execute(delete(Trigger))
    watch.look(100, session)

    full, free = receiver.got
    assert (full["severity"], full["title"]) == ("warning", "tasks wait for room in the triggerers: 2")
    assert "the first one for 7 minutes. A triggerer takes 100 tasks at once, of training 80%" in full["text"]
    assert "airflow.triggerer.replicas" in full["text"]
    assert (free["severity"], free["key"]) == ("info", full["key"])


def test_it_looks_once_a_minute(session: Session, waits: Callable[..., None], secret: Path, caplog) -> None:
    watch = room.RoomWatch()
    watch.look(100, session)
    waits(minutes=7)
    watch.look(100, session)
    assert not [each for each in caplog.records if each.name == room.log.name]


def test_a_database_that_fails_does_not_end_the_triggerer(
    session: Session, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    Trigger.__table__.drop(session.get_bind())
    room.RoomWatch().look(100, session)
    assert "cannot be read" in caplog.text and not receiver.got
