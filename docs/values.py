"""Write what the charts' schemas and values.yaml say: docs/values.md, and each chart's files/defaults.json.

./scripts/_python --dev python docs/values.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_markdown
import yaml
from trainyard_cli.chart import merge

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts/trainyard"
FILE = ROOT / "docs/values.md"
HEAD = """# Values

Written by `docs/values.py` from `values.schema.json` and `values.yaml` of each chart: change it there.
The umbrella's own keys come first. A subchart's keys are set under its name in the umbrella's values. Its
table shows its own defaults; what the umbrella sets otherwise stands in the umbrella's table. A key that is
not listed is refused.

Null means the default, unless the table has `null` among the types. In a map with names of your own
(`gpuPools`, `priorityClasses`, options of `airflow.config.core`, `resources.limits`), it removes the entry,
whichever values file has made it.
"""
# What subcharts take from the umbrella, where it has no keys, and what says nothing to a reader.
LEFT_OUT = {"global", "common"}
# A null in it is read: it is Airflow's own default, not the chart's.
OPTIONS = ("airflow", "config")
NOT_SHOWN = {
    *("additionalProperties", "definitions", "pattern", "patternProperties", "properties"),
    *("if", "then"),
}

Schema = dict[str, Any]
Names = tuple[str, ...]


def main() -> None:
    """Write the files."""
    FILE.write_text(page())
    for chart in charts():
        (chart / "files").mkdir(exist_ok=True)
        (chart / "files/defaults.json").write_text(defaults(chart))


def charts() -> list[Path]:
    """Return the umbrella and its subcharts with values."""
    return [CHART, *sorted(schema.parent for schema in CHART.glob("charts/*/values.schema.json"))]


def page() -> str:
    """Return the text of docs/values.md."""
    return "\n".join([HEAD, *map(section, charts())])


def defaults(chart: Path) -> str:
    """Return the text of a chart's files/defaults.json; the umbrella's has the keys of its subcharts, too.

    Helm drops a key that is null, and templates cannot read values.yaml: templates/_defaults.tpl of the chart
    `common` reads this, which says what a key is that was set to null. What ends with ? may be missing: an
    entry of a map with names of the user's own, and what may be null by the schema. A key * stands for all
    entries of such a map, which null removes.
    """
    values = yaml.safe_load((chart / "values.yaml").read_text())
    lines = dict(keys(read_schema(chart), values, ()))
    entries = dict.fromkeys(own_names(chart, ()))
    if chart == CHART:
        for subchart in charts()[1:]:
            own = yaml.safe_load((subchart / "values.yaml").read_text())
            merged = merge(own, values.get(subchart.name, {}))
            lines.pop((subchart.name,), None)
            lines |= dict(keys(read_schema(subchart), merged, (subchart.name,)))
            entries |= dict.fromkeys(own_names(subchart, (subchart.name,)))
    lines |= entries
    told = ",\n".join(f"{json.dumps('.'.join(path))}: {json.dumps(value)}" for path, value in lines.items())
    return f"{{\n{told}\n}}\n"


def keys(schema: Schema, values: object, path: Names) -> Iterator[tuple[Names, object]]:
    """Yield the path and the default of each key that the schema names, a map before what is in it."""
    definitions = schema["definitions"]

    def below(node: Schema, value: object, path: Names) -> Iterator[tuple[Names, object]]:
        node = resolved(node, definitions)
        named = node.get("properties", {})
        entry = resolved(node.get("additionalProperties") or {}, definitions)
        if named and isinstance(value, dict):
            may_be_missing = may_be_null(node) and not path[-1].endswith("?")
            here = (*path[:-1], f"{path[-1]}?") if may_be_missing else path
            children = {
                key: child for key, child in named.items() if key in value and "deprecated" not in child
            }
            if path and any(value[key] is not None and may_be_null(child) for key, child in children.items()):
                yield path, value
            for key, child in children.items():
                yield from below(child, value[key], (*here, key))
            return
        if value is not None and not may_be_null(node):
            yield path, value
        if "properties" in entry and isinstance(value, dict):
            for key, child in value.items():
                yield from below(entry, child, (*path, f"{key}?"))

    def may_be_null(node: Schema) -> bool:
        return "null" in resolved(node, definitions).get("type", ())

    yield from below(schema, values, path)


def own_names(chart: Path, above: Names) -> Iterator[Names]:
    """Yield the path of the entries of each map with names of the user's own, a map before what is in it."""
    schema = read_schema(chart)

    def below(node: Schema, path: Names) -> Iterator[Names]:
        node = resolved(node, schema["definitions"])
        for key, child in node.get("properties", {}).items():
            if "deprecated" not in child and (chart.name, *path, key) != OPTIONS:
                yield from below(child, (*path, key))
        if isinstance(node.get("additionalProperties"), dict):
            yield (*path, "*")
            yield from below(node["additionalProperties"], (*path, "*"))

    return ((*above, *path) for path in below(schema, ()))


def section(chart: Path) -> str:
    """Return the heading and the table of one chart."""
    schema = read_schema(chart)
    values = yaml.safe_load((chart / "values.yaml").read_text())
    shown = described(schema, values, schema["definitions"])
    for key in LEFT_OUT:
        if "properties" not in schema["properties"][key]:
            shown["properties"].pop(key)
    text = jsonschema_markdown.generate(shown, footer=False, hide_empty_columns=True)
    table = text[text.index("| Property") :]
    return f"## {chart.name}\n\n{schema['description']}\n\n{table}"


def read_schema(chart: Path) -> Schema:
    """Return a chart's values.schema.json."""
    schema: Schema = json.loads((chart / "values.schema.json").read_text())
    return schema


def described(node: Schema, value: object, definitions: Schema) -> Schema:
    """Return the schema of a key as the generator wants it: no references, and `value` as the default."""
    node = resolved(node, definitions)
    shown = {key: part for key, part in node.items() if key not in NOT_SHOWN}
    if "enum" in node or "const" in node:
        shown.setdefault("type", "string")
    if None in node.get("enum", []):
        shown |= {"type": ["string", "null"], "enum": [each for each in node["enum"] if each is not None]}
    if "items" in node:
        shown["items"] = described(node["items"], None, definitions)
    children = dict(node.get("properties", {}))
    below = value if isinstance(value, dict) else {}
    # A map with keys of the user's own: those that it has by default, or what each of them may be.
    others = node.get("additionalProperties")
    if isinstance(others, dict):
        entry = resolved(others, definitions)
        if entry.get("type") == "object" or "properties" in entry:
            children |= {key: others for key in below}
        if "properties" in entry and not below:
            children["NAME"] = others
    if children:
        shown["properties"] = {
            key: described(child, below.get(key), definitions)
            for key, child in children.items()
            if "deprecated" not in child
        }
    elif value is not None:
        shown["default"] = value
    return shown


def resolved(node: Schema, definitions: Schema) -> Schema:
    """Return the definition that a schema refers to, with what stands beside the reference."""
    while "$ref" in node:
        beside = {key: part for key, part in node.items() if key != "$ref"}
        node = {**definitions[node["$ref"].rpartition("/")[2]], **beside}
    return node


if __name__ == "__main__":
    main()
