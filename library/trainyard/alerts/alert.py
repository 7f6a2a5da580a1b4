"""`Alert`: a message to people about a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True)
class Alert:
    """A message to people about a run.

    Args:
        severity: `error` also pages whoever is on call; `warning` and `info` do not.
        title: one line.
        text: what happened, as plain text.
        details: the same as JSON.
        links: URLs by the link's name.
        key: alerts with the same key are one incident; defaults to the title.
    """

    severity: Severity
    title: str
    text: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
