"""Wrong values, kept in bad/, are refused before anything is applied, by name and with the cure; those beside
them that are right render.

Helm reports all that a schema refuses at once, and the chart all that its templates find. So values that do
not touch each other share a render: helm says of each what it would say of it alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from render import ChartError, Object, render_chart, render_text
from trainyard_cli.chart import merge

BAD = Path(__file__).parent / "bad"


class Entry(NamedTuple):
    """A document of bad/."""

    values: Object
    says: list[str]
    """Parts of one line of the message; the first is the key."""
    legal: Object | None = None
    alone: bool = False

    @property
    def by_schema(self) -> bool:
        return self.says[0].startswith("at '")


@functools.cache
def entries() -> list[Entry]:
    return [Entry(**one) for file in sorted(BAD.glob("*.yaml")) for one in yaml.safe_load(file.read_text())]


def paths(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths that values set; a list is one value."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from paths(value, (*path, key))
    else:
        yield path


def together(all_values: list[Object]) -> list[list[int]]:
    """Put values into few groups, by their numbers; in a group none sets what another one sets."""
    groups: list[list[int]] = []
    taken: list[set[tuple[str, ...]]] = []  # by each group
    for number, values in enumerate(all_values):
        own = set(paths(values))
        free = (n for n, theirs in enumerate(taken) if not overlap(own, theirs))
        group = next(free, len(groups))
        if group == len(groups):
            groups.append([])
            taken.append(set())
        groups[group].append(number)
        taken[group] |= own
    return groups


def overlap(some: set[tuple[str, ...]], others: set[tuple[str, ...]]) -> bool:
    """Whether a path of one side is one of the other, or lies below it."""
    return any(a[: len(b)] == b[: len(a)] for a in some for b in others)


def batches() -> list[list[Entry]]:
    """Bad values that are refused in one render each."""
    found = [[one] for one in entries() if one.alone]
    for by_schema in (True, False):
        some = [one for one in entries() if not one.alone and one.by_schema == by_schema]
        found += [[some[number] for number in group] for group in together([one.values for one in some])]
    return found


def merged(all_values: list[Object]) -> Object:
    """Values on top of each other."""
    result: Object = {}
    for values in all_values:
        result = merge(result, values, keep_null=True)
    return result


@pytest.mark.parametrize("batch", batches(), ids=lambda batch: f"{batch[0].says[0]}+{len(batch) - 1}")
def test_a_bad_value_is_refused_by_name(batch: list[Entry]) -> None:
    with pytest.raises(ChartError) as refused:
        render_text(values=merged([one.values for one in batch]))
    lines = str(refused.value).splitlines()
    silent = [one for one in batch if not any(all(part in line for part in one.says) for line in lines)]
    assert not silent, refused.value


@pytest.mark.nightly
@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.says[0]} {entry.values}")
def test_a_bad_value_is_refused_by_name_alone(entry: Entry) -> None:
    with pytest.raises(ChartError) as refused:
        render_text(values=entry.values)
    lines = str(refused.value).splitlines()
    assert any(all(part in line for part in entry.says) for line in lines), refused.value


LEGAL = [one.legal for one in entries() if one.legal]


@pytest.mark.parametrize("group", together(LEGAL), ids=len)
def test_the_nearest_values_that_are_right_render(group: list[int]) -> None:
    assert render_chart(values=merged([LEGAL[number] for number in group]))
