"""`Alert`: something that people should hear of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True)
class Alert:
    """Something that people should hear of.

    Args:
        severity: `error` also pages whoever is on call; `warning` and `info` do not.
        title: one line.
        text: what happened, for people; plain text.
        details: the same for machines; anything JSON can hold.
        links: where to look, from the link's name to its URL.
        key: alerts of one key are one incident; the title unless given.
    """

    severity: Severity
    title: str
    text: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
