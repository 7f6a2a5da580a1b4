"""One addition that fails leaves Airflow and the other additions alone."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from trainyard import policy


def test_an_addition_that_fails_is_reported_and_the_others_are_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[str] = []
    module = ModuleType("additions")
    module.__dict__.update(good=lambda: made.append("good"), bad=lambda: 1 / 0)
    monkeypatch.setitem(sys.modules, "additions", module)
    policy.add({"missing": "additions.nowhere:f", "broken": "additions:bad", "good": "additions:good"})
    assert made == ["good"]
    assert [record.args for record in caplog.records] == [
        ("missing", "additions.nowhere:f"),
        ("broken", "additions:bad"),
    ]
    assert "ZeroDivisionError" in caplog.text


def test_every_addition_of_the_library_exists() -> None:
    assert {
        target for target in policy.ADDITIONS.values() if not callable(policy.resolve_name(target))
    } == set()
