"""Structured logs: one JSON object a line on standard output."""

import json
from datetime import UTC, datetime
from typing import Any


def event(name: str, /, *, level: str = "info", **fields: Any) -> None:
    """Log the event `name` with its fields."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    print(json.dumps({"time": time, "level": level, "event": name, **fields}), flush=True)
