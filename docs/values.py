"""Write docs/values.md: every key of the charts, from their schemas, with its default from values.yaml.

./scripts/_python --dev python docs/values.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_markdown
import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts/trainyard"
FILE = ROOT / "docs/values.md"
HEAD = """# Values

Written by `docs/values.py` from `values.schema.json` and `values.yaml` of each chart: change it there.
The umbrella's own keys come first. A subchart's keys are set under its name in the umbrella's values. Its
table shows its own defaults; what the umbrella sets otherwise stands in the umbrella's table. A key that is
not listed is refused.
"""
# What subcharts take from the umbrella, and what says nothing to a reader.
LEFT_OUT = {"global", "common"}
NOT_SHOWN = {
    *("additionalProperties", "definitions", "pattern", "patternProperties", "properties"),
    *("if", "then"),
}

Schema = dict[str, Any]


def main() -> None:
    """Write the file."""
    FILE.write_text(page())


def page() -> str:
    """Return the text of docs/values.md."""
    charts = [CHART, *sorted(schema.parent for schema in CHART.glob("charts/*/values.schema.json"))]
    return "\n".join([HEAD, *map(section, charts)])


def section(chart: Path) -> str:
    """Return the heading and the table of one chart."""
    schema = json.loads((chart / "values.schema.json").read_text())
    values = yaml.safe_load((chart / "values.yaml").read_text())
    shown = described(schema, values, schema["definitions"])
    for key in LEFT_OUT:
        shown["properties"].pop(key)
    text = jsonschema_markdown.generate(shown, footer=False, hide_empty_columns=True)
    table = text[text.index("| Property") :]
    return f"## {chart.name}\n\n{schema['description']}\n\n{table}"


def described(node: Schema, value: object, definitions: Schema) -> Schema:
    """Return the schema of a key as the generator wants it: no references, and `value` as the default."""
    node = resolved(node, definitions)
    shown = {key: part for key, part in node.items() if key not in NOT_SHOWN}
    if "enum" in node or "const" in node:
        shown.setdefault("type", "string")
    if "items" in node:
        shown["items"] = described(node["items"], None, definitions)
    children = dict(node.get("properties", {}))
    below = value if isinstance(value, dict) else {}
    # A map with keys of the user's own: those that it has by default.
    others = node.get("additionalProperties")
    if isinstance(others, dict) and resolved(others, definitions).get("type") == "object":
        children |= {key: others for key in below}
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
