"""Null means the default for every key that a schema names; it removes what has a name of the user's own."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from leaves import ON
from render import CHART, ChartError, Object, find, platform, pod_spec, render_chart, render_text
from test_bad_values import paths as set_paths
from test_scripts import load
from test_values import CHARTS, Schema
from trainyard_cli.chart import read_values

Names = tuple[str, ...]
SUBCHARTS = {chart.name: chart for chart in CHARTS if chart != CHART}


def named_keys(chart: Path) -> Iterator[Names]:
    """The maps and leaves that the values have and the schema names, unless null is a value of its own."""
    values = read_values([chart / "values.yaml"])
    for path, node in Schema(chart).properties():
        here: Any = values
        for key in path:
            here = here.get(key) if isinstance(here, dict) else None
        if here is not None and "null" not in Schema(chart).resolve(node).get("type", ()):
            yield path
    if chart == CHART:
        for name, subchart in SUBCHARTS.items():
            yield from ((name, *path) for path in named_keys(subchart))


def nulls(paths: list[Names], values: Object | None = None) -> Object:
    """Values with null at these paths."""
    root = copy.deepcopy(values or {})
    for *above, last in paths:
        here = root
        for key in above:
            here = here.setdefault(key, {})
        here[last] = None
    return root


def differing(paths: list[Names], values: Object, expected: str) -> list[Names]:
    """The paths at which null is not the default: many are tried at once, halved where something differs."""
    try:
        if render_text(values=nulls(paths, values)) == expected:
            return []
    except ChartError as refused:
        if len(paths) == 1:
            pytest.fail(f"{'.'.join(paths[0])}: {refused}")
    if len(paths) == 1:
        return paths
    middle = len(paths) // 2
    halves = (paths[:middle], paths[middle:])
    return [path for half in halves for path in differing(half, values, expected)] or paths


def test_null_is_the_default_at_every_depth() -> None:
    """A map that is null, and then what is in it."""
    every = list(named_keys(CHART))
    assert len(every) > 500
    for depth in range(1, max(map(len, every)) + 1):
        paths = [path for path in every if len(path) == depth]
        assert differing(paths, {}, render_text()) == []


@pytest.mark.parametrize("name", SUBCHARTS)
def test_a_subchart_that_is_null_has_all_that_the_umbrella_sets_in_it(name: str) -> None:
    assert render_text(values={name: None}) == render_text()


@pytest.mark.parametrize("name", ["mlflow", "postgresql", "versitygw"])
def test_what_a_user_takes_from_a_subchart_stays_away(name: str) -> None:
    """Also where it is as without the umbrella."""
    own: Object = {"priorityClassName": ""}
    if name == "mlflow":
        own["garbageCollection"] = {"enabled": False, "suspend": False}
    objects = render_chart(values={name: own})
    for one in objects:
        if one["metadata"]["name"] == f"trainyard-{name}" and one["kind"] in ("Deployment", "StatefulSet"):
            assert "priorityClassName" not in pod_spec(one)
    names = {one["metadata"]["name"] for one in objects}
    assert f"trainyard-{name}" in names
    assert name != "mlflow" or "trainyard-mlflow-garbage-collection" not in names


def test_null_is_the_default_where_everything_is_switched_on() -> None:
    """Leaves, but for those that are switched on."""
    found = list(leaves(CHART, ON))
    assert len(found) > 400
    assert differing(found, ON, render_text(values=ON)) == []


def leaves(chart: Path, beside: Object) -> Iterator[Names]:
    """The named keys without named keys in them, but for those that `beside` sets."""
    every = list(named_keys(chart))
    maps = {path[:length] for path in every for length in range(len(path))}
    taken = list(set_paths(beside))
    for path in every:
        if path not in maps and not any(path[: len(one)] == one[: len(path)] for one in taken):
            yield path


@pytest.mark.parametrize("name", SUBCHARTS)
def test_null_is_the_default_in_a_chart_that_stands_alone(name: str) -> None:
    chart = SUBCHARTS[name]
    base: Object = {"persistence": {"existingClaim": "datasets"}} if name == "versitygw" else {}
    values = nulls(list(leaves(chart, base)), base)
    assert render_chart(chart=chart, values=values) == render_chart(chart=chart, values=base)


def test_null_is_the_default_in_an_entry() -> None:
    keys = {
        "gpuPools": ("ondemand", ["labels", "taints", "kindNodes"]),
        "priorityClasses": ("trainyard-spot", ["preemptionPolicy", "description"]),
    }
    paths = [(at, name, key) for at, (name, optional) in keys.items() for key in optional]
    paths += [("training", "volumes", "datasets", "storageClassName")]
    assert differing(paths, {}, render_text()) == []


def test_null_for_what_an_entry_has_to_say_is_refused_by_name() -> None:
    with pytest.raises(ChartError, match=r"gpuPools/spot': missing property 'gpuType'"):
        render_text(values={"gpuPools": {"spot": {"gpuType": None}}})


def test_null_removes_an_entry_of_the_user() -> None:
    values = {
        "gpuPools": {"spot": None},
        "priorityClasses": {"trainyard-interactive": None},
        "training": {"resources": {"cpu": {"limits": {"cpu": None}}}, "limitRange": None},
        "airflow": {"config": {"core": {"xcom_backend": None, "load_examples": None}, "common.io": None}},
    }
    objects = render_chart(values=values)
    told = platform(objects)
    assert told["pools"].keys() == {"ondemand"}
    assert "cpu" not in told["training"]["resources"]["cpu"]["limits"]
    names = {(one["kind"], one["metadata"]["name"]) for one in objects}
    assert not {("PriorityClass", "trainyard-interactive"), ("LimitRange", "trainyard-training")} & names
    config = find(objects, "ConfigMap", "trainyard-config")["data"]["airflow.cfg"]
    assert "auth_manager" in config and "xcom" not in config and "load_examples" not in config


def test_without_a_section_for_bundles_the_bundles_are_there() -> None:
    objects = render_chart(values={"airflow": {"config": {"dag_processor": None}}})
    config = find(objects, "ConfigMap", "trainyard-config")["data"]["airflow.cfg"]
    assert "[dag_processor]\ndag_bundle_config_list = [" in config


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_the_defaults_that_templates_read_are_those_of_the_values(chart: Path) -> None:
    """files/defaults.json is generated: ./scripts/_python --dev python docs/values.py."""
    generator = load("../../docs/values.py")
    assert generator.defaults(chart) == (chart / "files/defaults.json").read_text()


def test_an_entry_that_no_chart_has_is_removed_as_well() -> None:
    """An overlay takes back what a values file before it has said, in each map with names of its own."""
    told = json.loads((CHART / "files/defaults.json").read_text())
    maps = [path.split(".") for path in told if path.endswith(".*")]
    names: list[list[str]] = [["gone" if key == "*" else key for key in path] for path in maps]
    inner = {"gpuPools": "ondemand"}
    for path, stars in zip(names, maps, strict=True):
        for index, key in enumerate(stars[:-1]):
            if key == "*":
                path[index] = inner.get(stars[index - 1], "made")
    made: Object = {
        "queues": {"kueue": {"enabled": True}},
        "gpuPools": {"ondemand": {"pod": {key: {} for key in ("labels", "annotations", "nodeSelector")}}},
        "teams": {"made": {"namespace": "ml-made", "dags": []}},
        "airflow": {key: {"made": {"data": {"a": "b"}}} for key in ("extraConfigMaps", "extraSecrets")},
    }
    base = render_text(values=made)
    assert len(names) > 30
    assert differing([tuple(path) for path in names], made, base) == []


def test_an_overlay_removes_a_pool_that_a_team_has() -> None:
    team: Object = {"namespace": "ml-vision", "dags": [], "gpus": {"spot": None, "ondemand": {"own": 1}}}
    values: Object = {
        "queues": {"kueue": {"enabled": True}},
        "gpuPools": {"spot": None},
        "teams": {"vision": team},
    }
    assert platform(render_chart(values=values))["pools"].keys() == {"ondemand"}
