"""The summary of a run."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from trainyard.alerts.summary import summarize
from trainyard.alerts.tasks import report

PROMOTION = {"model": "digits", "version": "3", "alias": "champion", "reason": "better"}


def test_the_summary_says_what_came_of_the_run() -> None:
    text = summarize(dag_id="d", run_id="r", promotion=PROMOTION, metrics={"f1_macro": 0.951, "rows": 9})
    assert text.splitlines() == [
        "digits v3 is now champion: better",
        "metrics: f1_macro 0.9510",
        "run: d / r",
    ]


def test_it_is_in_the_log_and_handed_on(caplog: pytest.LogCaptureFixture) -> None:
    context: Any = {}
    with caplog.at_level(logging.INFO):
        assert asyncio.run(report.function(context, "hello")) == "hello"
    assert "hello" in caplog.text
