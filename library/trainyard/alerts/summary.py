"""The summary of a successful run, which its last task logs and returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def summarize(*, dag_id: str, run_id: str, promotion: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """A run's result as a few lines of text."""
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float))
    return (
        f"{promotion['model']} v{promotion['version']} is now {promotion['alias']}: {promotion['reason']}\n"
        f"metrics: {numbers or 'none'}\n"
        f"run: {dag_id} / {run_id}"
    )
