"""Structured logs: one JSON object a line on standard output."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_logger = logging.getLogger("trainyard")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != _logger.name:  # from a library: the text is a message, not the name of an event
            fields |= {"event": "library", "logger": record.name, "message": record.getMessage()}
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def configure() -> None:
    """Write this package's events and the warnings of libraries to standard output as JSON lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    _logger.setLevel(logging.INFO)


def warnings_only() -> None:
    """Log only warnings and errors from now on."""
    _logger.setLevel(logging.WARNING)


def event(name: str, /, *, level: int = logging.INFO, traceback: bool = False, **fields: Any) -> None:
    """Log the event `name` with its fields; with `traceback`, also the exception that is being handled."""
    _logger.log(level, name, extra={"fields": fields}, exc_info=traceback)


def warning(name: str, /, **fields: Any) -> None:
    """Log an event that needs attention, although the step continues."""
    event(name, level=logging.WARNING, **fields)
