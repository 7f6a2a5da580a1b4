"""Logs of containers: how far one was read, and what a line of it says."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

_LEVELS = {
    "debug": logging.DEBUG,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.ERROR,
}


@dataclass
class LogPosition:
    """How far a container's log was read: the newest time stamp and how many lines carried it."""

    timestamp: str = ""
    lines: int = 0
    _known: int = 0
    _resuming: bool = False

    def resume(self) -> None:
        """Prepare for a stream which begins at, or a little before, the newest time stamp."""
        self._known, self._resuming = self.lines, bool(self.timestamp)

    def is_new(self, timestamp: str) -> bool:
        """Whether a line is read for the first time; moves on when it is."""
        here, newest = _sortable(timestamp), _sortable(self.timestamp)
        if self._resuming and (here < newest or (here == newest and self._known)):
            self._known -= here == newest
            return False
        self._resuming = False
        # Lines of stdout and stderr may come a little out of order: never lose one for that.
        if here >= newest:
            self.lines = self.lines + 1 if here == newest else 1
            self.timestamp = timestamp
        return True


def readable(line: str) -> tuple[int, str]:
    """Level and text of one line of the trainer's log: JSON becomes `message key=value ...`."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        return logging.INFO, line
    fields = {k: v for k, v in record.items() if k not in ("level", "time", "timestamp", "ts", "logger")}
    names = [str(fields.pop(key)) for key in ("message", "msg", "event") if key in fields]
    message = names[0] if names else ""
    rest = " ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in fields.items())
    return _LEVELS.get(str(record.get("level", "")).lower(), logging.INFO), f"{message} {rest}".strip()


def _sortable(timestamp: str) -> str:
    """RFC 3339 in UTC drops trailing zeros of the fraction: pad, so that text order is time order."""
    seconds, _, fraction = timestamp.removesuffix("Z").partition(".")
    return f"{seconds}.{fraction:0<9}" if timestamp else ""
