"""An alert when tasks wait for room in the triggerers."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from trainyard.airflow_compat import TRAINING_SHARE, leave_room_in_triggerers, unassigned_triggers
from trainyard.alerts.alert import Alert
from trainyard.alerts.receivers import send

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

LOOK_SECONDS = 60
# A triggerer that starts, or takes over from another one, needs less.
PATIENCE = timedelta(minutes=5)
KEY = "triggerer-room"
log = logging.getLogger(__name__)


def leave_room_and_watch_it() -> None:
    """Let training leave room in the triggerers, and send an alert when tasks wait for room all the same."""
    leave_room_in_triggerers(RoomWatch().look)


class RoomWatch:
    """Sends an alert once when tasks have waited for a triggerer too long, and another one when none does."""

    def __init__(self) -> None:
        self._looked = -float(LOOK_SECONDS)
        self._alerted = False

    def look(self, capacity: int, session: Session | None = None) -> None:
        """Look once a minute how long tasks have waited; `capacity` is this triggerer's. Never raises."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            waiting, oldest = unassigned_triggers(session)
        except Exception:
            log.exception("how many tasks wait for a triggerer cannot be read")
            return
        waited = datetime.now(UTC) - oldest if oldest else timedelta()
        # What goes away by itself within minutes is not told, neither when it comes nor when it goes.
        if self._alerted == (waited > PATIENCE):
            return
        self._alerted = not self._alerted
        alert = _full(capacity, waiting, waited) if self._alerted else _free()
        log.warning("%s; %s", alert.title, alert.text)
        # It may take seconds, in which the triggerer would start nothing.
        threading.Thread(target=send, args=(alert,), name="alert-of-room", daemon=True).start()


def _full(capacity: int, waiting: int, waited: timedelta) -> Alert:
    return Alert(
        "warning",
        f"tasks wait for room in the triggerers: {waiting}",
        f"the first one for {waited.total_seconds() / 60:.0f} minutes. A triggerer takes {capacity} tasks at "
        f"once, of training {TRAINING_SHARE:.0%} of that: set airflow.triggerer.replicas, or "
        "airflow.config.triggerer.capacity, higher",
        {"waiting": waiting, "capacity": capacity, "waited_seconds": round(waited.total_seconds())},
        key=KEY,
    )


def _free() -> Alert:
    return Alert("info", "tasks wait for room in the triggerers no more", key=KEY)
