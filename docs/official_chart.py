"""Write the table in docs/official-chart.md from the airflow chart's files/official-chart.yaml.

./scripts/_python --dev python docs/official_chart.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "charts/trainyard/charts/airflow/files/official-chart.yaml"
FILE = ROOT / "docs/official-chart.md"
START = "<!-- Written by docs/official_chart.py: change files/official-chart.yaml of the airflow chart. -->\n"
END = "<!-- End of what is written. -->\n"


def main() -> None:
    """Write the table into the page."""
    FILE.write_text(page())


def page() -> str:
    """Return the text of docs/official-chart.md with the table as it is now."""
    before, _, rest = FILE.read_text().partition(START)
    after = rest.partition(END)[2]
    return f"{before}{START}\n{table()}\n{END}{after}"


def table() -> str:
    """Return a row for each entry."""
    content = yaml.safe_load(TABLE.read_text())
    rows = [row(keys(entry), fine(entry.get("fine")), entry["cure"]) for entry in content["keys"]]
    rows += [row(f"the variable `{name}`", "", cure) for name, cure in content["variables"].items()]
    return "\n".join([row("Key", "Accepted", "Otherwise"), "|---|---|---|", *rows])


def row(*cells: str) -> str:
    """Return a row; a `|` in a cell would end it."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def keys(entry: dict[str, Any]) -> str:
    """Return the keys of an entry, those at the same place together."""
    names = entry["keys"]
    listed = f"`{names[0]}`" if len(names) == 1 else f"`{{{', '.join(names)}}}`"
    places = entry.get("in", [])
    if not places:
        return ", ".join(f"`{name}`" for name in names)
    return ", ".join(f"`{place}.{listed[1:]}" for place in places)


def fine(accepted: str | dict[str, str] | None) -> str:
    """Return what is accepted, as it is written in values."""
    if not accepted:
        return ""
    if isinstance(accepted, dict):
        return ", ".join(f"`{key}: {value}`" for key, value in accepted.items())
    return f"`{accepted}`"


if __name__ == "__main__":
    main()
