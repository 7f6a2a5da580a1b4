"""Every leaf of the values by the charts' schemas, and values that set all of them at once."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from render import CHART, ChartError, Object, render_text
from test_values import CHARTS, Schema
from trainyard_cli.chart import merge

Path = tuple[str, ...]
Value = str | int | float | bool | None


def _route() -> Object:
    """An HTTPRoute, each time anew: values are changed in place."""
    return {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["r.example.com"]}


# What makes the templates read every leaf.
ON: Object = {
    "gpuPools": {"spot": {"taints": [{"key": "a", "effect": "NoExecute"}]}},
    "airflow": {
        **{
            component: {"podDisruptionBudget": {"enabled": True}, "logGroomerSidecar": {"enabled": True}}
            for component in ("scheduler", "dagProcessor", "triggerer")
        },
        "apiServer": {
            "podDisruptionBudget": {"enabled": True},
            "service": {"ports": [{"name": "http", "port": 80}]},
            "httpRoute": _route(),
        },
        "pgbouncer": {"enabled": True, "podDisruptionBudget": {"enabled": True}},
        "statsd": {"enabled": True},
        "dags": {
            "git": {"bundles": {"one": {"repo": "https://example.com/x.git"}}},
            "gitSync": {"enabled": True, "repo": "https://example.com/y.git"},
        },
        "ingress": {"apiServer": {"enabled": True, "hosts": [{"name": "y.example.com"}]}},
    },
    "mlflow": {
        "auth": {
            "oidc": {"issuer": "https://w.example.com", "secretName": "client", "roles": {"*": "viewer"}}
        },
        "ingress": {"enabled": True, "host": "x.example.com"},
        "httpRoute": _route(),
        "podDisruptionBudget": {"enabled": True},
    },
    "versitygw": {
        "service": {"type": "NodePort"},
        "ingress": {"enabled": True, "host": "z.example.com"},
        "httpRoute": _route(),
    },
    "nvidia-device-plugin": {"simulator": {"enabled": False}},
    "karpenter": {"enabled": True},
    "stockOperators": {"enabled": True},
    "openlineage": {"url": "http://example.com"},
    "scriptJobs": {"image": {"repository": "python", "tag": "3.11"}},
    "backup": {"enabled": True, "image": {"repository": "postgres", "tag": "15"}},
}


def leaves() -> dict[Path, Object]:
    """Every key that takes a text, a number or a switch, by its path in the umbrella, with its schema."""
    return {path: node for chart in CHARTS for path, node in _walk(Schema(chart), chart.name)}


def _walk(schema: Schema, chart: str) -> Iterator[tuple[Path, Object]]:
    prefix = () if chart == CHART.name else (chart,)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for key in prefix:
        values = values[key]
    values = merge(values, ON if not prefix else ON.get(chart, {}))

    def children(node: Object, path: Path, here: Any) -> Iterator[tuple[Path, Object]]:
        """The leaves below a key; a list has one entry, a map those of the values or one of the test's.

        What is closed without a list of its keys goes to Kubernetes as it is."""
        node = schema.resolve(node)
        if "deprecated" in node or (not path and "properties" not in node):
            return
        others = node.get("additionalProperties")
        if "properties" in node:
            for key, child in node["properties"].items():
                if path or key not in ("global", "common", *(one.name for one in CHARTS)):
                    yield from below({**schema.resolve(child), **child}, (*path, key), here)
        elif "object" in node.get("type", ()) and others is not False:
            entries = list(here) if isinstance(others, dict) and isinstance(here, dict) else []
            for key in entries or (["name", "mountPath"] if path[-1] == "0" else ["odd"]):
                yield from below(
                    others if isinstance(others, dict) else {"type": "string"}, (*path, key), here
                )
        elif node.get("type") == "array":
            yield from children(node["items"], (*path, "0"), None)
        elif others is not False:
            yield (*prefix, *path), node

    def below(node: Object, path: Path, here: Any) -> Iterator[tuple[Path, Object]]:
        yield from children(node, path, here.get(path[-1]) if isinstance(here, dict) else None)

    yield from children(schema.root, (), values)


def values_of(chosen: dict[Path, Value]) -> Object:
    """Values that set these paths, on top of what switches everything on."""
    root = copy.deepcopy(ON)
    for path, value in chosen.items():
        here: Any = root
        for key, following in itertools.pairwise(path):
            fresh: Any = [] if following == "0" else {}
            if isinstance(here, list):
                here.extend([] if here else [fresh])
                here = here[0]
            else:
                here = here.setdefault(key, fresh)
        if isinstance(here, list):
            here[:] = [value]
        else:
            here[path[-1]] = value
    return root


def render_what_is_taken(
    chosen: dict[Path, Value], render: Callable[[Object], str] = lambda values: render_text(values=values)
) -> tuple[str, dict[Path, Value]]:
    """Render without the leaves that are refused by name; return what came out, and which leaves were taken.

    Fails on an error that names no key that was set.
    """
    taken = dict(chosen)
    while True:
        try:
            return render(values_of(taken)), taken
        except ChartError as refused:
            named = set(named_keys(str(refused)))
            refused_leaves = {
                path for path in taken if any(path[: len(key)] == key[: len(path)] for key in named)
            }
            assert refused_leaves, f"an error that names no key which was set: {refused}"
            taken = {path: value for path, value in taken.items() if path not in refused_leaves}


def named_keys(error: str) -> Iterator[Path]:
    """The keys that an error names: those of a schema as /a/b below the chart's name, ours as a.b.c."""
    chart: Path = ()
    for line in error.splitlines():
        if header := re.fullmatch(r"([\w-]+):", line):
            chart = () if header[1] == CHART.name else (header[1],)
        elif (at := re.match(r" *- at '(/[^']*)': (.*)", line)) and at[2] != "validation failed":
            extra = re.search(r"additional properties '([^']+)'", at[2])
            yield (*chart, *at[1].strip("/").split("/"), *([extra[1]] if extra else []))
        for key in re.findall(r"(?:[\w-]+\.)+[\w-]+", line):
            yield tuple(key.split("."))
