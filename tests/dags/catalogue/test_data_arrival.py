"""data_arrival: one delivery per upstream system, and the assets that say so."""

from __future__ import annotations

from airflow.sdk import DAG
from data_arrival import NAMES, PARAMS, dag
from trainyard import assets
from trainyard.triggerer.mapping import resolve_mapped


def test_each_delivery_goes_where_the_sensor_looks() -> None:
    generate = dag.get_task("generate")
    request = generate.start_trigger_args.trigger_kwargs["request"]
    for index, name in enumerate(NAMES):
        delivery = resolve_mapped(request, index)
        assert delivery["step"] == "generate"
        assert (
            delivery["dataset"] == f"generator://{name}?rows={{{{ params.rows }}}}&seed={{{{ params.seed }}}}"
        )
        assert assets.incoming_marker(name) == (
            delivery["output_uri"].replace("file:///data/", "s3://") + "/_SUCCESS"
        )


def test_the_assets_are_reported_once_all_are_there() -> None:
    arrived = dag.get_task("arrived")
    assert arrived.upstream_task_ids == {"generate"}
    assert [asset.uri for asset in arrived.outlets] == [f"s3://incoming/{name}" for name in NAMES]
    assert arrived.start_from_trigger


def test_it_comes_before_the_training() -> None:
    assert isinstance(dag, DAG)
    assert dag.timetable.expression == "0 1 * * 1"
    assert PARAMS["rows"].schema["maximum"] == 5_000_000
