"""Values are the chart's API: documented, closed, and wrong ones are refused by name, all at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from render import (
    CHART,
    POD_KINDS,
    ChartError,
    Object,
    containers,
    find,
    lint,
    platform,
    render_chart,
    render_text,
)
from test_scripts import load
from trainyard_cli.versions import VERSIONS

CHARTS = [CHART, *(path.parent for path in sorted(CHART.glob("charts/*/values.yaml")))]
each_chart = pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)


def mounts(**paths: str) -> Object:
    """Values that mount these volumes of training pods at these paths."""
    return {"training": {"volumes": {name: {"mountPath": path} for name, path in paths.items()}}}


def test_paths_that_only_look_alike_are_taken() -> None:
    objects = render_chart(values=mounts(checkpoints="/data2", datasets="/data"))
    paths = {name: one["mountPath"] for name, one in platform(objects)["training"]["volumes"].items()}
    assert paths == {"checkpoints": "/data2", "datasets": "/data"}


def test_all_bad_values_are_reported_at_once() -> None:
    values = {
        "gpuPools": {"spot": {"kindNodes": 2}},
        "training": {"namespace": "trainyard"},
        "mlflow": {"replicas": 2},
        "versitygw": {"namespace": "trainyard"},
    }
    with pytest.raises(ChartError, match=r"(?s)3 bad value.*gpuPools.*training\.namespace.*mlflow\.replicas"):
        render_text(values=values)


@pytest.mark.parametrize("chart", [*CHARTS, CHART / "charts/common"], ids=lambda chart: chart.name)
def test_helm_lint_has_nothing_against_it(chart: Path) -> None:
    """Each chart by itself, too."""
    linted = lint(chart)
    assert linted.returncode == 0, linted.stdout


@each_chart
def test_the_schema_describes_every_key(chart: Path) -> None:
    """A `# --` comment in values.yaml is the description in the schema; other keys have one there alone."""
    text, schema = (chart / "values.yaml").read_text(), Schema(chart)
    written = comments(text)
    assert written
    for path in schema.paths(yaml.safe_load(text)):
        described = schema.description(path)
        assert described, f"{'.'.join(path)} has no description in values.schema.json"
        if path in written and not schema.is_entry(path):
            assert described == written[path], ".".join(path)


# Keys that have no default, with the reason.
NO_DEFAULT = {
    "minAvailable": "the default is maxUnavailable, and this goes before it",
    "pod": "a component's own, in place of the chart's",
    "container": "a component's own, in place of the chart's",
}


@each_chart
def test_the_values_have_every_key_of_the_schema(chart: Path) -> None:
    values = yaml.safe_load((chart / "values.yaml").read_text())
    for path, node in Schema(chart).properties():
        if path[0] in ("global", "common") or path[-1] in NO_DEFAULT or "deprecated" in node:
            continue
        if path == ("enabled",):  # the umbrella's, which tells by it a subchart that is null
            continue
        if path[:2] == ("workers", "kubernetes") and path[2:]:  # in place of those of workers
            continue
        found: Any = values
        for key in path:
            assert key in found, ".".join(path)
            found = found[key]


@each_chart
def test_schemas_are_closed_and_described_throughout(chart: Path) -> None:
    """An object whose keys the schema lists takes no others."""
    schema = Schema(chart)
    for node in nodes(schema.root):
        if "properties" in node:
            assert node.get("additionalProperties") is False, node
            for key, child in node["properties"].items():
                assert schema.text(child), key


@each_chart
def test_a_pattern_stands_once(chart: Path) -> None:
    patterns = [node["pattern"] for node in nodes(Schema(chart).root) if isinstance(node.get("pattern"), str)]
    assert len(patterns) == len(set(patterns)), patterns


class Schema:
    """A chart's values.schema.json, by paths of keys."""

    def __init__(self, chart: Path) -> None:
        self.root: Object = json.loads((chart / "values.schema.json").read_text())

    def resolve(self, node: Object) -> Object:
        while "$ref" in node:
            node = self.root["definitions"][node["$ref"].rpartition("/")[2]]
        return node

    def text(self, node: Object) -> str:
        """The description of a node: beside its reference, or that of the definition."""
        return str(node.get("description") or self.resolve(node).get("description", ""))

    def child(self, node: Object, key: str) -> Object | None:
        """The schema of a key; None where the schema leaves that level to Kubernetes."""
        node = self.resolve(node)
        others = node.get("additionalProperties")
        return node.get("properties", {}).get(key) or (others if isinstance(others, dict) else None)

    def at(self, path: tuple[str, ...]) -> Object:
        node: Object | None = self.root
        for key in path:
            assert node is not None
            node = self.child(node, key)
        assert node is not None, ".".join(path)
        return node

    def description(self, path: tuple[str, ...]) -> str:
        return self.text(self.at(path))

    def is_entry(self, path: tuple[str, ...]) -> bool:
        """Whether the last key is a name of the user's own choice, such as a GPU pool's."""
        return path[-1] not in self.resolve(self.at(path[:-1])).get("properties", {})

    def paths(self, values: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        """The paths of all keys that the values have and that the schema knows; an unknown key fails."""
        if not isinstance(values, dict):
            return
        node = self.resolve(self.at(path))
        others = node.get("additionalProperties")
        if "properties" not in node and not (isinstance(others, dict) and self.resolve(others) != SCALAR):
            return
        for key, value in values.items():
            yield (*path, key)
            yield from self.paths(value, (*path, key))

    def properties(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Object]]:
        """Every key that the schema names, but for those in lists and in maps of the user's own names."""
        for key, child in self.resolve(self.at(path)).get("properties", {}).items():
            yield (*path, key), child
            if "deprecated" not in child:
                yield from self.properties((*path, key))


SCALAR = {"type": ["string", "number", "boolean", "null"]}


def nodes(node: Any) -> Iterator[Object]:
    """Every JSON object of a schema, but for conditions."""
    if isinstance(node, list):
        for child in node:
            yield from nodes(child)
    elif isinstance(node, dict):
        yield node
        for key, child in node.items():
            if key not in ("if", "then"):
                yield from nodes(child)


def comments(text: str) -> dict[tuple[str, ...], str]:
    """Return the text of each `# --` comment of a values file, by the path of the key below it."""
    found: dict[tuple[str, ...], str] = {}
    above: list[tuple[int, str]] = []  # indents and names of open keys
    comment: list[str] = []
    for line in text.splitlines():
        words = line.strip()
        if words.startswith("# -- "):
            comment = [words.removeprefix("# -- ")]
        elif words.startswith("# ") and comment:
            comment.append(words.removeprefix("# "))
        elif key := re.match(r"( *)([\w.-]+):", line):
            above = [
                *((indent, name) for indent, name in above if indent < len(key[1])),
                (len(key[1]), key[2]),
            ]
            if comment:
                found[tuple(name for _, name in above)] = " ".join(comment)
            comment = []
    return found


def test_comments_are_found() -> None:
    text = "# -- One,\n# two.\na:\n  # Not this.\n  b: 1\n  # -- Three.\n  c: {d: 1}\ne: 2\n"
    assert comments(text) == {("a",): "One, two.", ("a", "c"): "Three."}


# Objects that go to Kubernetes as they are.
WHOLE = {
    "config",
    "livenessProbe",
    "readinessProbe",
    "resources",
    "startupProbe",
    "strategy",
    "waitForMigrationsResources",
    "cpu",
    "gpu",
    "pod",
    "nodeClassRef",
}


@each_chart
def test_every_key_is_read(chart: Path) -> None:
    """By name in some template, or as a part of an object that goes to Kubernetes as it is."""
    folders = {chart, CHART, CHART / "charts/common"}
    files = [
        file
        for folder in folders
        for part in ("templates", "files")
        for file in (folder / part).glob("*")
        if file.is_file() and file.name != "defaults.json"
    ]
    text = "".join(file.read_text() for file in files)
    values = yaml.safe_load((chart / "values.yaml").read_text())
    for path in Schema(chart).paths(values):
        if not (WHOLE & set(path[:-1])) and not Schema(chart).is_entry(path):
            assert re.search(rf"\b{re.escape(path[-1])}\b", text), f"nothing reads {'.'.join(path)}"


def test_the_reference_is_what_the_schemas_say() -> None:
    """docs/values.md is generated: ./scripts/_python --dev python docs/values.py."""
    generator = load("../../docs/values.py")
    assert generator.page() == generator.FILE.read_text()


def test_charts_are_where_the_umbrella_says() -> None:
    umbrella = yaml.safe_load((CHART / "Chart.yaml").read_text())
    versions = {}
    for file in CHART.glob("charts/*/Chart.yaml"):
        chart = yaml.safe_load(file.read_text())
        versions[chart["name"]] = chart["version"]
    assert {one["name"]: one["version"] for one in umbrella["dependencies"]} == versions
    assert not [one for one in umbrella["dependencies"] if "repository" in one]


def test_names_of_secrets_may_have_dots() -> None:
    objects = render_chart(values={"airflow": {"fernetKeySecretName": "airflow.fernet"}})
    (server,) = [
        one
        for one in objects
        if one["metadata"]["name"] == "trainyard-api-server" and one["kind"] == "Deployment"
    ]
    assert "airflow.fernet" in json.dumps(server)


def postgres_version() -> str:
    """The default tag, with its digest where the chart has one."""
    chart = yaml.safe_load((CHART / "charts/postgresql/Chart.yaml").read_text())
    digest = chart.get("annotations", {}).get("trainyard.dev/image-digest")
    return f"{chart['appVersion']}@{digest}" if digest else chart["appVersion"]


@pytest.mark.parametrize(
    ("chart", "image"),
    [
        ("airflow", f"apache/airflow:{VERSIONS.airflow}"),
        ("mlflow", f"trainyard/mlflow:{VERSIONS.mlflow}"),
        ("nvidia-device-plugin", f"nvcr.io/nvidia/k8s-device-plugin:v{VERSIONS.nvidia_device_plugin}"),
        ("postgresql", f"postgres:{postgres_version()}"),
        ("versitygw", f"trainyard/versitygw:{VERSIONS.versitygw}"),
    ],
)
def test_an_image_without_a_tag_is_that_of_the_charts_version(chart: str, image: str) -> None:
    values = {"persistence": {"existingClaim": "datasets"}} if chart == "versitygw" else {}
    objects = render_chart(chart=CHART / "charts" / chart, values=values)
    pods = [one for one in objects if one["kind"] in POD_KINDS]
    assert {container["image"] for one in pods for container in containers(one)} == {image}


def test_the_charts_digest_is_that_of_the_charts_tag_only() -> None:
    for given, image in (
        ({"repository": "mirror.example.com/postgres"}, f"mirror.example.com/postgres:{postgres_version()}"),
        ({"tag": "16"}, "postgres:16"),
        ({"digest": f"sha256:{'0' * 64}"}, f"postgres@sha256:{'0' * 64}"),
    ):
        objects = render_chart(chart=CHART / "charts/postgresql", values={"image": given})
        server = containers(next(one for one in objects if one["kind"] == "StatefulSet"))[-1]
        assert server["image"] == image


def test_a_digest_needs_no_tag() -> None:
    digest = f"sha256:{'0' * 64}"
    objects = render_chart(values={"mlflow": {"image": {"digest": digest}}})
    server = containers(find(objects, "Deployment", "trainyard-mlflow"))[-1]
    assert server["image"] == f"trainyard/mlflow@{digest}"


def test_another_release_and_namespace_render() -> None:
    objects = render_chart(release="other", namespace="somewhere")
    namespaces = {one["metadata"].get("namespace") for one in objects}
    assert namespaces == {"somewhere", "ml-training", "ml-serving", "nvidia-device-plugin", None}
