"""The assets that tie DAGs together: data that arrived, and models that became champion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from airflow.sdk import Asset, AssetAlias
from airflow.sdk.exceptions import AirflowFailException
from trainyard_contract import DELIVERY_MARKER

from trainyard.platform import load_platform

CONNECTION = "trainyard_s3"
INCOMING = "incoming"
# The day whose data a run works on: its param `data_date` or, as for every scheduled run, its own day. A run
# that a delivery triggered has another (`delivered_day`).
DATE = "{{ params.data_date or (dag_run.run_after | ds) }}"
# The outlet of tasks that promote. A plain asset would report each success, also of what was champion before,
# and its name would have to be known when the DAG is parsed.
CHAMPIONS = AssetAlias("champions")


def incoming(name: str) -> Asset:
    """Data of an upstream system; each update is one day's."""
    return Asset(_arrivals(name))


def incoming_uri(name: str, date: str = DATE) -> str:
    """The directory of one day's data, as training pods see it."""
    return f"{load_platform().training.datasets.uri}/{INCOMING}/{name}/date={date}"


def incoming_marker(name: str, date: str = DATE) -> str:
    """The object that says that a day's data is complete."""
    return f"{_arrivals(name)}/date={date}/{DELIVERY_MARKER}"


def _arrivals(name: str) -> str:
    """Where data arrives: in a bucket that is a directory of the volume, or in that of the lake."""
    datasets = load_platform().training.datasets
    return f"s3://{INCOMING}/{name}" if datasets.is_mounted else f"{datasets.uri}/{INCOMING}/{name}"


def newest_arrival(name: str, until: str) -> str:
    """The last day up to `until` whose data is complete.

    Raises:
        AirflowFailException: there is none.
    """
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    bucket, _, prefix = _arrivals(name).removeprefix("s3://").partition("/")
    keys = S3Hook(CONNECTION).list_keys(bucket, prefix=f"{prefix}/date=")
    if days := [day for day in complete_days(prefix, keys) if day <= until]:
        return max(days)
    raise AirflowFailException(
        f"no data of {name} has arrived up to {until}; run data_arrival, or name a later day as data_date"
    )


def complete_days(prefix: str, keys: Iterable[str]) -> list[str]:
    """The days among the objects `keys` below the prefix that have their marker."""
    marker = re.compile(rf"{re.escape(prefix)}/date=(\d{{4}}-\d\d-\d\d)/{re.escape(DELIVERY_MARKER)}")
    return [found[1] for key in keys if (found := marker.fullmatch(key))]


def champion(model: str) -> Asset:
    """The model that serves under the registry's name `model`; an update means that it is another version."""
    return Asset(f"trainyard://models/{model}/champion")


def announce_champion(outlet_events: Mapping[Any, Any], *, model: str, version: str, date: str) -> None:
    """Report a new champion from a task with the outlet `CHAMPIONS`; `date` is the day of its data.

    Call it only in the run that made the version champion (`Promotion.made_champion`). A task that is
    repeated may report the same version again.
    """
    outlet_events[CHAMPIONS].add(
        champion(model), extra={"model": model, "version": str(version), "date": date}
    )


def promoted_model(triggering_asset_events: Mapping[Any, Any]) -> str | None:
    """The model whose promotion triggered a run, the newest one of several; None for other runs."""
    events = _events(triggering_asset_events)
    if not events:
        return None
    newest = max(events, key=lambda event: event.timestamp)
    return newest.extra.get("model")  # an event that a person sends need not name it


def delivered_day(triggering_asset_events: Mapping[Any, Any]) -> str | None:
    """The day whose delivery triggered a run, the newest one of several; None for other runs.

    Raises:
        AirflowFailException: an event names what is no day.
    """
    named = [event.extra.get("date") for event in _events(triggering_asset_events)]
    # An event that a person sends need not name one.
    return max((_day(given) for given in named if given), default=None)


def _events(triggering_asset_events: Mapping[Any, Any]) -> list[Any]:
    return [event for of_asset in triggering_asset_events.values() for event in of_asset]


def _day(given: Any) -> str:
    try:
        return date.fromisoformat(str(given)).isoformat()
    except ValueError as error:
        raise AirflowFailException(
            f"the event that triggered this run names {given!r} as its date; send YYYY-MM-DD, or trigger a "
            "run with data_date"
        ) from error
