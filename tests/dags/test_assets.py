"""The assets between DAGs, and what a run learns from them."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Param
from airflow.sdk.definitions.param import ParamValidationError
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.context import OutletEventAccessors
from trainyard import assets
from trainyard.params import data_date_param
from trainyard.triggerer.templates import render

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def test_pods_and_sensors_look_at_the_same_place() -> None:
    assert assets.incoming("transactions").uri == "s3://incoming/transactions"
    assert assets.incoming_marker("t", "2026-11-21") == "s3://incoming/t/date=2026-11-21/_SUCCESS"
    assert assets.incoming_uri("t", "2026-11-21") == "file:///data/incoming/t/date=2026-11-21"


def test_in_an_object_store_data_arrives_in_the_lake_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.loads(Path(os.environ["TRAINYARD_PLATFORM"]).read_text())
    told["training"]["volumes"]["datasets"] = {"uri": "s3://lake/data/"}
    (tmp_path / "platform.json").write_text(json.dumps(told))
    monkeypatch.setenv("TRAINYARD_PLATFORM", str(tmp_path / "platform.json"))
    place = "s3://lake/data/incoming/t"
    assert assets.incoming("t").uri == place
    assert assets.incoming_uri("t", "2026-11-21") == f"{place}/date=2026-11-21"
    assert assets.incoming_marker("t", "2026-11-21") == f"{place}/date=2026-11-21/_SUCCESS"


@pytest.mark.parametrize(("given", "expected"), [(None, "2026-11-23"), ("2026-11-02", "2026-11-02")])
def test_the_day_of_the_data_is_the_runs_own_unless_it_says_otherwise(
    given: str | None, expected: str
) -> None:
    run = SimpleNamespace(run_after=datetime(2026, 11, 23, 2, tzinfo=UTC))
    context = {"params": {"data_date": given}, "dag_run": run, "ti": None}
    rendered = render({"whole": assets.DATE, "part": assets.incoming_uri("t")}, context)
    assert rendered == {"whole": expected, "part": f"file:///data/incoming/t/date={expected}"}


def test_a_day_that_is_none_is_refused_before_the_run() -> None:
    param: Param = data_date_param()
    assert param.resolve("2026-11-21") == "2026-11-21"
    assert param.resolve(None) is None
    with pytest.raises(ParamValidationError):
        param.resolve("last monday")


def test_only_days_with_their_marker_are_complete() -> None:
    keys = [
        "t/date=2026-11-09/_SUCCESS",
        "t/date=2026-11-09/t.csv",
        "t/date=2026-11-16/t.csv",
        "t/date=2026-11-16/sub/_SUCCESS",
        "t/date=2026-11-02/_SUCCESS",
        "tt/date=2026-11-20/_SUCCESS",
    ]
    assert assets.complete_days("t", keys) == ["2026-11-09", "2026-11-02"]


def test_a_new_champion_is_announced_under_its_own_name() -> None:
    outlets = OutletEventAccessors()
    assets.announce_champion(outlets, model="fraud", version="3", date="2026-11-21")
    (event,) = outlets[assets.CHAMPIONS].asset_alias_events
    assert event.dest_asset_key.uri == assets.champion("fraud").uri == "trainyard://models/fraud/champion"
    assert event.extra == {"model": "fraud", "version": "3", "date": "2026-11-21"}
    assert event.source_alias_name == assets.CHAMPIONS.name


def event(age: int, **extra: Any) -> SimpleNamespace:
    return SimpleNamespace(timestamp=NOW - timedelta(hours=age), extra=extra)


def test_a_run_learns_which_model_was_promoted() -> None:
    assert assets.promoted_model({}) is None
    assert assets.promoted_model({"asset": [event(1)]}) is None
    assert assets.promoted_model({"asset": [event(2, model="old"), event(1, model="fraud")]}) == "fraud"


def test_a_run_learns_for_which_day_was_delivered() -> None:
    assert assets.delivered_day({}) is None
    assert assets.delivered_day({"asset": [event(1), event(2, date=None)]}) is None
    late = [event(1, date="2026-11-02"), event(2, date="2026-11-16"), event(3)]
    assert assets.delivered_day({"asset": late, "other": [event(0, date="2026-11-09")]}) == "2026-11-16"


@pytest.mark.parametrize("given", ["yesterday", "2026-11-31", "../../x", 7, ["2026-11-21"]])
def test_an_event_with_a_day_that_is_none_is_not_taken_for_another_day(given: Any) -> None:
    with pytest.raises(AirflowFailException, match="send YYYY-MM-DD"):
        assets.delivered_day({"asset": [event(1, date=given)]})
