"""Sends the epochs of a training to MLflow in a thread of its own: training never waits for MLflow."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainyard_trainer import log
from trainyard_trainer.errors import Temporary

History = Sequence[Mapping[str, Any]]
PAUSE_SECONDS = 1.0  # between two calls: short epochs share one
MAX_PAUSE_SECONDS = 60.0  # while MLflow does not respond


class EpochSender:
    """Calls `send` with the newest history, again and again while it raises Temporary.

    A history has all epochs before, so only the newest one waits: what waits does not grow with an outage.
    What is not sent by the end is the caller's, who has the whole history then.
    """

    def __init__(self, send: Callable[[History], None]) -> None:
        self._send = send
        self._changed = threading.Condition()
        self._waiting: History | None = None
        self._is_stopped = False
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def put(self, history: History) -> None:
        """Have the history sent, and return at once. Raises what MLflow refused an earlier one with."""
        if self._error:
            raise self._error
        with self._changed:
            self._waiting = list(history)
            self._changed.notify()
        if not self._thread:
            # A daemon: a training that fails or is preempted ends at once.
            self._thread = threading.Thread(target=self._run, name="epochs", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Send nothing more; return when a call that is under way has ended."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        failures = 0
        while (history := self._next()) is not None:
            try:
                self._send(history)
                failures = 0
            except Temporary as error:
                log.warning("tracking_deferred", reason=str(error))
                failures += 1
                self._put_back(history)
            except Exception as error:
                self._error = error
                return
            self._sleep(min(PAUSE_SECONDS * 2**failures, MAX_PAUSE_SECONDS))

    def _next(self) -> History | None:
        """Wait for a history and take it; None once nothing more is to be sent."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._is_stopped)
            history, self._waiting = self._waiting, None
            return None if self._is_stopped else history

    def _put_back(self, history: History) -> None:
        """Let a history be sent again, unless a newer one waits."""
        with self._changed:
            if self._waiting is None:
                self._waiting = history

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped, seconds)
