"""What a change of the repository changes in the cluster: the rendered objects of two revisions, compared."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from . import environments
from .errors import CliError
from .git import Repository, Tree
from .objects import Identity
from .rendering import Renderer, renderer

Json = dict[str, Any]

# The end of a name that is a hash of what the object runs: a Job of this chart, a ConfigMap of others.
HASH = re.compile(r"-[0-9a-f]{8,10}$")
SECRET_FIELDS = ("data", "stringData")
# A comment of GitHub holds 65,536 characters, GitLab's holds more; .ci/comment adds a line of its own.
COMMENT_SIZE = 60_000


@dataclass(frozen=True)
class Change:
    """One object that is added, removed or changed: its name, and the lines of a unified diff."""

    what: str
    title: str
    lines: list[str]


@dataclass(frozen=True)
class Result:
    """What changes in an environment. ``error`` says why it could not be told; ``broken``, that it is the new
    revision that does not render."""

    environment: str
    changes: list[Change] = field(default_factory=list)
    chart: str = ""
    error: str = ""
    broken: bool = False

    @property
    def summary(self) -> str:
        """Say in a few words what changes."""
        if self.error:
            return "does not render" if self.broken else "cannot be compared"
        counts = Counter(each.what for each in self.changes)
        return ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "no difference"


def compare_revisions(
    helm: Path, repository: Repository, old: str, new: str | None, only: list[str]
) -> list[Result]:
    """Return what changes from one revision to the other (the working tree), for each environment."""
    before, after = repository.tree(old), repository.tree(new)
    for name in only:
        environments.check_exists(name, before, after)
    with renderer(helm, repository) as rendered:
        return [_compare(rendered, name, before, after) for name in only or environments.names(before, after)]


def _compare(rendered: Renderer, name: str, before: Tree, after: Tree) -> Result:
    try:
        new = _rendered(rendered, name, after)
    except CliError as error:
        return Result(name, error=str(error), broken=True)
    try:
        old = _rendered(rendered, name, before)
    except CliError as error:
        return Result(name, error=f"{before.name}: {error}")
    return Result(
        name, compare(old[0], new[0]), chart=f"{old[1]} -> {new[1]}" if old[1] != new[1] else new[1]
    )


def _rendered(rendered: Renderer, name: str, tree: Tree) -> tuple[list[Json], str]:
    """Return the objects of an environment, and where their chart comes from; none where there is none."""
    if not environments.exists(tree, name):
        return [], "none"
    environment = environments.read(rendered.repository, tree, name)
    return rendered.objects(environment, tree), rendered.chart_tree(environment, tree).name


# ---- objects


def compare(before: list[Json], after: list[Json]) -> list[Change]:
    """Return the objects that differ, sorted by kind and name."""
    old, new = {Identity.of(each): each for each in before}, {Identity.of(each): each for each in after}
    renamed = _renamed([key for key in old if key not in new], [key for key in new if key not in old])
    changes = []
    for key in sorted({*old, *new} - {*renamed.values()}):
        first, second = old.get(key), new.get(renamed.get(key, key))
        what = "added" if first is None else "removed" if second is None else "changed"
        lines = _diff(first, second)
        if lines:
            changes.append(Change(what, _title(key, renamed.get(key)), lines))
    return changes


def _renamed(removed: list[Identity], added: list[Identity]) -> dict[Identity, Identity]:
    """Pair objects whose names differ in nothing but the hash at their end."""
    successors = {_without_hash(key): key for key in added}
    return {key: successors[_without_hash(key)] for key in removed if _without_hash(key) in successors}


def _without_hash(key: Identity) -> Identity:
    return key._replace(name=HASH.sub("", key.name))


def _title(key: Identity, renamed: Identity | None) -> str:
    return key.title + (f" -> {renamed.name}" if renamed else "")


def _diff(old: Json | None, new: Json | None) -> list[str]:
    first, second = _hidden(old, new)
    lines = difflib.unified_diff(_lines(first), _lines(second), "old", "new", lineterm="")
    return list(lines)[2:]


def _hidden(old: Json | None, new: Json | None) -> tuple[Json | None, Json | None]:
    """Return the objects with the values of Secrets replaced; one can still see which of them change."""
    return _without_values(old, new, "old value"), _without_values(new, old, "new value")


def _without_values(one: Json | None, other: Json | None, changed: str) -> Json | None:
    if one is None or one["kind"] != "Secret":
        return one
    result = dict(one)
    for name in SECRET_FIELDS:
        values, others = one.get(name) or {}, (other or {}).get(name) or {}
        if values:
            result[name] = {
                key: "(hidden)" if others.get(key, value) == value else f"(hidden, {changed})"
                for key, value in values.items()
            }
    # A copy of the whole object, values included, that kubectl and Argo CD leave on what they applied.
    annotations = dict(one["metadata"].get("annotations") or {})
    if annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None):
        result["metadata"] = {**one["metadata"], "annotations": annotations}
    return result


def _lines(one: Json | None) -> list[str]:
    return [] if one is None else yaml.dump(one, Dumper=_Dumper, sort_keys=True, width=2**16).splitlines()


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as such, so that its lines are compared."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


# ---- showing


def as_text(results: list[Result]) -> Iterator[str]:
    """Yield the lines for a terminal or a file."""
    for result in results:
        yield _heading(result)
        if result.error:
            yield from (f"  {line}" for line in result.error.splitlines())
        for change in result.changes:
            yield f"--- {change.what} {change.title}"
            yield from change.lines


def _heading(result: Result) -> str:
    chart = f" (chart: {result.chart})" if result.chart else ""
    return f"=== {result.environment}: {result.summary}{chart}"


def as_markdown(results: list[Result], size: int = COMMENT_SIZE) -> str:
    """Return a comment of at most ``size`` characters; what it has no room for is named."""
    text = "## What this changes in the environments\n"
    left_out: list[str] = []
    for result in results:
        chart = f" (chart: `{result.chart}`)" if result.chart else ""
        text += f"\n### {result.environment}: {result.summary}{chart}\n"
        for title, section in _sections(result):
            if len(text) + len(section) > size - _room_for_note(size):
                left_out.append(f"{result.environment}: {title}")
            else:
                text += section
    return text + _note(left_out, size - len(text))


def _sections(result: Result) -> Iterator[tuple[str, str]]:
    if result.error:
        yield "the error", f"\n{_fenced('', result.error.splitlines())}\n"
    for change in result.changes:
        yield f"{change.what} {change.title}", _details(change)


def _details(change: Change) -> str:
    summary = f"<summary>{change.what} {change.title}</summary>"
    return f"\n<details>{summary}\n\n{_fenced('diff', change.lines)}\n\n</details>\n"


def _fenced(language: str, lines: list[str]) -> str:
    """Return the lines as a block of code, whose fence is longer than any in it."""
    longest = max((len(found) for line in lines for found in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}{language}", *lines, fence])


def _room_for_note(size: int) -> int:
    return min(4_000, size // 4)


def _note(left_out: list[str], room: int) -> str:
    """Return the list of what was left out, cut where it is too long as well."""
    if not left_out:
        return ""
    text = f"\nThe comment has no room for {len(left_out)} more. `./scripts/diff` shows them:\n\n"
    for number, line in enumerate(left_out):
        rest = f"- and {len(left_out) - number} more\n"
        if len(text) + len(f"- {line}\n") + len(rest) > room:
            return text + rest
        text += f"- {line}\n"
    return text
