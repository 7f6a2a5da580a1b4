"""Values written for the official Airflow chart render, or are refused in one message that names each key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from render import CHART, ChartError, Object, find, pod_spec, render_chart, render_text
from test_scripts import load
from test_values import Schema

AIRFLOW = CHART / "charts/airflow"
TABLE = yaml.safe_load((AIRFLOW / "files/official-chart.yaml").read_text())
OFFICIAL = "#/definitions/official"
CASES = sorted((Path(__file__).parent / "official").glob("*.yaml"))


def refusals(values: Object, chart: Path = CHART) -> dict[str, str]:
    """Return what the chart refuses, key -> reason."""
    with pytest.raises(ChartError) as refused:
        render_chart(values=values, chart=chart)
    said = re.findall(r"^ *(?:- |Error: .*: )?(airflow\.[\w.]+): (.*)$", str(refused.value), re.MULTILINE)
    assert said, refused.value
    return dict(said)


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_a_file_for_the_official_chart_renders_or_is_refused_in_one_round(file: Path) -> None:
    case = yaml.safe_load(file.read_text())
    if case["refused"]:
        assert set(refusals({"airflow": case["values"]})) == {f"airflow.{key}" for key in case["refused"]}
    else:
        assert render_chart(values={"airflow": case["values"]})


@pytest.mark.parametrize(
    "file",
    [file for file in CASES if yaml.safe_load(file.read_text())["refused"]],
    ids=lambda file: file.stem,
)
def test_without_the_keys_that_were_named_it_renders(file: Path) -> None:
    """So one round is enough."""
    case = yaml.safe_load(file.read_text())
    for key in case["refused"]:
        *above, last = key.split(".")
        place = case["values"]
        for part in above:
            place = place[part]
        del place[last]
    assert render_chart(values={"airflow": case["values"]})


def entries() -> Iterator[tuple[str, Any, str]]:
    """Every key of the table: its path, what is fine, and the cure."""
    for entry in TABLE["keys"]:
        for place in entry.get("in", [""]):
            for key in entry["keys"]:
                yield f"{place}.{key}".strip("."), entry.get("fine"), entry["cure"].replace("{key}", key)


def put(values: Object, path: str, value: object) -> None:
    """Set one key, given by its path."""
    *above, last = path.split(".")
    for part in above:
        values = values.setdefault(part, {})
    values[last] = value


def official_keys(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The paths that the schema leaves to the table."""
    for key, node in schema.resolve(schema.at(path)).get("properties", {}).items():
        if node.get("$ref") == OFFICIAL:
            yield ".".join((*path, key))
        else:
            yield from official_keys(schema, (*path, key))


def test_the_schema_and_the_table_know_the_same_keys() -> None:
    paths = [path for path, _, _ in entries()]
    assert len(paths) == len(set(paths))
    assert set(paths) == set(official_keys(Schema(AIRFLOW)))


def test_every_key_of_the_table_is_refused_in_one_message_with_its_cure() -> None:
    values: Object = {}
    expected = {}
    for path, _, cure in entries():
        put(values, path, "x" if path == "executor" else [{"name": "x", "mountPath": "/x"}])
        expected[f"airflow.{path}"] = cure
    assert refusals({"airflow": values}) == expected


def knows(schema: Schema, path: str) -> bool:
    """Whether the schema has the key, or leaves what is there to Kubernetes or Airflow."""
    node: Object | None = schema.root
    for key in path.split("."):
        if node is None:
            return False
        if "properties" not in schema.resolve(node):
            return True
        node = schema.child(node, key)
    return node is not None and node.get("$ref") != OFFICIAL


def test_a_cure_names_keys_that_there_are() -> None:
    """airflow.a.b in a cure is a key of this chart; one with a star stands for several."""
    schema, umbrella = Schema(AIRFLOW), Schema(CHART)
    cures = [cure for _, _, cure in entries()] + list(TABLE["variables"].values())
    for cure in cures:
        for path in re.findall(r"\bairflow\.([\w.]*\w)(?!\w|\*)", cure):
            assert knows(schema, path), cure
        if "outside airflow" in cure:
            named = re.findall(r"(?<![\w.])((?:training|serving|secrets|priorityClasses)(?:\.\w+)*)", cure)
            assert all(knows(umbrella, path) for path in named), cure


FINE = {
    "airflowVersion": "3.1.0",
    "data.metadataConnection.protocol": "postgresql",
    "pgbouncer.resultBackendPoolSize": 5,
    "otelCollector": {"tracesEnabled": False, "metricsEnabled": False},
}


def test_what_is_so_anyway_is_accepted_and_changes_nothing() -> None:
    values: Object = {}
    for path, fine, _ in entries():
        if isinstance(fine, dict):
            put(values, path, FINE.get(path, {"enabled": False}))
        elif fine:
            put(values, path, FINE[path] if path in FINE else yaml.safe_load(fine.partition("|")[0]))
    assert render_text(values={"airflow": values}) == render_text()


def test_an_empty_value_is_none() -> None:
    values: Object = {}
    for path, empty in {
        "flower": {},
        "apiServer.hostAliases": [],
        "fernetKey": "",
        "webserver": {"env": []},
    }.items():
        put(values, path, empty)
    assert render_text(values={"airflow": values}) == render_text()


def test_the_chart_alone_refuses_them_too() -> None:
    assert set(refusals({"fernetKey": "x", "webserver": {"replicas": 2}}, AIRFLOW)) >= {
        "airflow.webserver.replicas"
    }


@pytest.mark.parametrize("name", TABLE["variables"])
def test_a_variable_without_effect_is_refused_wherever_it_is_set(name: str) -> None:
    one = [{"name": name, "value": "x"}]
    refused = refusals(
        {
            "airflow": {
                "env": one,
                "scheduler": {"env": one},
                "workers": {"env": one},
                "extraEnv": yaml.dump(one),
            }
        }
    )
    assert set(refused) == {f"airflow.{key}" for key in ("env", "scheduler.env", "workers.env", "extraEnv")}
    assert all(said == f"{name}: {TABLE['variables'][name]}" for said in refused.values())


def test_each_probe_of_the_api_server_has_its_scheme() -> None:
    objects = render_chart(values={"airflow": {"apiServer": {"readinessProbe": {"scheme": "HTTPS"}}}})
    main = pod_spec(find(objects, "Deployment", "trainyard-api-server"))["containers"][0]
    schemes = {
        probe: main[probe]["httpGet"]["scheme"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert schemes == {"startupProbe": "HTTP", "livenessProbe": "HTTP", "readinessProbe": "HTTPS"}


def test_the_page_has_the_table() -> None:
    """docs/official-chart.md is written by ./scripts/_python --dev python docs/official_chart.py."""
    generator = load("../../docs/official_chart.py")
    assert generator.page() == generator.FILE.read_text()
