"""Container logs: how far a log was read, and how to read one line."""

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
    """How far a container's log was read: the newest timestamp and how many lines had it."""

    timestamp: str = ""
    lines: int = 0
    _to_skip: int = 0
    _resuming: bool = False

    def resume(self) -> None:
        """Prepare for a stream that begins at, or a little before, the newest timestamp."""
        self._to_skip, self._resuming = self.lines, bool(self.timestamp)

    def advance(self, timestamp: str) -> bool:
        """Whether a line with this timestamp is new; if it is, the position moves on."""
        current, newest = _sort_key(timestamp), _sort_key(self.timestamp)
        if self._resuming and (current < newest or (current == newest and self._to_skip)):
            self._to_skip -= current == newest
            return False
        self._resuming = False
        # Lines of stdout and stderr may be slightly out of order: none may be lost for that.
        if current >= newest:
            self.lines = self.lines + 1 if current == newest else 1
            self.timestamp = timestamp
        return True


def parse_log_line(line: str) -> tuple[int, str]:
    """Level and text of a log line: a JSON object becomes `message key=value ...`."""
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


def _sort_key(timestamp: str) -> str:
    """RFC 3339 drops trailing zeros of the fraction: pad them, so that text order is time order."""
    seconds, _, fraction = timestamp.removesuffix("Z").partition(".")
    return f"{seconds}.{fraction:0<9}" if timestamp else ""
