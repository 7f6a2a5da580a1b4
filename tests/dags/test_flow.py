"""Control tasks about a run's way and its data; triggerer/test_in_airflow.py has most of them in Airflow."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.execution_time.context import OutletEventAccessors
from batch_inference import SUMMARY
from trainyard.flow import arrived, inference_request
from trainyard.triggerer.templates import render

RUN = SimpleNamespace(run_after=datetime(2026, 11, 21, tzinfo=UTC))


@pytest.mark.parametrize(("promoted", "model"), [({}, "fraud"), ({"model": "other"}, "other")])
def test_predictions_are_made_for_the_model_that_was_promoted(promoted: dict[str, Any], model: str) -> None:
    event = SimpleNamespace(extra=promoted, timestamp=RUN.run_after)
    context = {
        "params": {"model_name": "fraud", "data_date": "2026-11-09"},
        "triggering_asset_events": {"champion": [event]} if promoted else {},
        "dag_run": RUN,
    }
    assert asyncio.run(inference_request.function(context, "transactions")) == {
        "model": model,
        "date": "2026-11-09",
        "source": "file:///data/incoming/transactions/date=2026-11-09",
    }


def test_each_outlet_gets_the_day() -> None:
    outlets = [Asset("s3://incoming/x"), Asset("s3://incoming/y")]
    context = {"outlet_events": OutletEventAccessors(), "task": SimpleNamespace(outlets=outlets)}
    asyncio.run(arrived.function(context, "2026-11-21"))
    assert [context["outlet_events"][each].extra for each in outlets] == [{"date": "2026-11-21"}] * 2


@pytest.mark.parametrize(("suspected", "rows", "share"), [(3, 400, "0.75%"), (0, 0, "0.00%")])
def test_the_summary_of_a_prediction(suspected: int, rows: int, share: str) -> None:
    found = {"class_1": suspected, "rows": rows, "model_version": "4", "output": "file:///data/p"}
    ti = SimpleNamespace(xcom_pull=lambda task_ids, key, map_indexes, default: found)
    (text,) = render({"text": SUMMARY}, {"ti": ti}).values()
    assert text == (
        f"fraud v4 suspects {suspected} of {rows} transactions ({share})\npredictions: file:///data/p"
    )
