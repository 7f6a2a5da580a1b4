"""Control tasks about a run's way and its data: branches, conditions, deliveries."""

from __future__ import annotations

import asyncio
from typing import Any

from airflow.sdk import Asset, Context

from trainyard.assets import delivered_day, incoming_uri, newest_arrival, promoted_model
from trainyard.triggerer.control import control_task


@control_task("branch")
async def choose(_: Context, condition: Any, *, then: str | list[str], otherwise: str | list[str]) -> Any:
    """Go on with the tasks or groups `then` or `otherwise`; what else comes directly after it is skipped."""
    return then if condition else otherwise


@control_task("short_circuit")
async def only_if(_: Context, condition: Any) -> bool:
    """Skip the tasks directly after it unless `condition`, a template or another task's output, is true."""
    return bool(condition)


@control_task()
async def arrived(context: Context, date: str) -> None:
    """Report that the data of the day `date` is there: give it the assets as `outlets`."""
    events: Any = context["outlet_events"]
    for outlet in context["task"].outlets:
        events[Asset(name=outlet.name, uri=outlet.uri)].extra = {"date": date}


@control_task()
async def day_of_data(context: Context) -> str:
    """The day whose data a run works on: its param `data_date`, what the delivery names, or its own day."""
    delivered = delivered_day(context["triggering_asset_events"])
    return context["params"]["data_date"] or delivered or _own_day(context)


@control_task()
async def inference_request(context: Context, source: str) -> dict[str, str]:
    """What to predict: a model, and a day of the deliveries of `source`.

    They come from the promotion that triggered the run, or from its params `model_name` and `data_date`;
    without the latter it is the newest day that has arrived.
    """
    params = context["params"]
    model = promoted_model(context["triggering_asset_events"]) or params["model_name"]
    date = params["data_date"] or await asyncio.to_thread(newest_arrival, source, _own_day(context))
    return {"model": model, "date": date, "source": incoming_uri(source, date)}


def _own_day(context: Context) -> str:
    return context["dag_run"].run_after.date().isoformat()
