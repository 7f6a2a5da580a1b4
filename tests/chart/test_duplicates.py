"""No mapping of a render says one key twice: parsers differ in which one they take."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Any

import pytest
import yaml
from components import VARIANTS
from leaves import ON
from render import CHART, ChartError, Object, find, render_chart, render_text
from test_null import Names, named_keys
from trainyard_cli.chart import merge

OWN = {
    "airflow": {
        "data": {"metadataConnection": {"host": "db.example.com"}},
        "apiServer": {"apiServerConfig": "A = 1"},
        "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "read", "key": "a"}}}],
        "extraConfigMaps": {"read": {"data": {"a": "b"}}},
    },
    "nvidia-device-plugin": {"config": {"map": {"default": "version: v1"}}},
}
ALL_ON: Object = merge(ON, OWN)
# The chart's own annotations, wherever they are.
TAKEN = {
    **{
        f"checksum/{name}": "mine" for name in ("config", "scripts", "api-server-config", "metadata", "extra")
    },
    "helm.sh/resource-policy": "mine",
    "argocd.argoproj.io/sync-options": "mine",
    "argocd.argoproj.io/compare-options": "mine",
}


class Strict(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Refuses a mapping that says one key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


def annotated() -> Iterator[Names]:
    """The values with annotations of objects and of pods."""
    yield from (path for path in named_keys(CHART) if path[-1].lower().endswith("annotations"))


def everywhere(paths: list[Names], value: Object) -> Object:
    values: Object = {}
    for path in paths:
        one: Any = value
        for key in reversed(path):
            one = {key: one}
        values = merge(values, one)
    return values


def test_the_loader_refuses_a_key_that_is_there_twice() -> None:
    with pytest.raises(yaml.YAMLError, match=r"twice: \{'b'\}"):
        yaml.load("a: {b: 1, c: 2, b: 3}", Strict)


@pytest.mark.parametrize("files", VARIANTS)
def test_no_key_is_there_twice(files: tuple[str, ...]) -> None:
    assert list(yaml.load_all(render_text(files=files), Strict))


def test_no_annotation_is_there_twice_where_users_have_those_of_the_chart() -> None:
    """Those of pods that the chart has as well are refused, each by its key; all others may be anywhere."""
    paths = list(annotated())
    assert len(paths) > 15
    with pytest.raises(ChartError) as refused:
        render_text(values=merge(ALL_ON, everywhere(paths, TAKEN)))
    lines = re.findall(r"- ([\w.-]+): checksum/[\w-]+ is the chart's own", str(refused.value))
    theirs = {tuple(line.split(".")) for line in lines}
    pods = {"apiServer", "scheduler", "dagProcessor", "triggerer", "pgbouncer", "statsd"}
    assert theirs >= {("mlflow", "podAnnotations"), *(("airflow", name, "podAnnotations") for name in pods)}
    fine = {name: value for name, value in TAKEN.items() if not name.startswith("checksum/")}
    given = merge(
        everywhere([path for path in paths if path not in theirs], TAKEN), everywhere(list(theirs), fine)
    )
    values = merge(ALL_ON, given)
    assert list(yaml.load_all(render_text(values=values), Strict))
    template = find(render_chart(values=values), "ConfigMap", "trainyard-pod-template")["data"]
    assert yaml.load(template["pod_template_file.yaml"], Strict)


@pytest.mark.parametrize("kind", ["extraConfigMaps", "extraSecrets"])
def test_a_label_of_the_charts_own_on_an_object_of_the_users_is_refused(kind: str) -> None:
    values = {"airflow": {kind: {"own": {"labels": {"app.kubernetes.io/name": "x"}}}}}
    with pytest.raises(
        ChartError, match=rf"airflow\.{kind}\.own\.labels: app\.kubernetes\.io/name is the chart"
    ):
        render_text(values=values)
