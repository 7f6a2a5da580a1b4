"""YAML which remembers the line of every key, and refuses what is ambiguous.

Beside plain YAML it takes `1e-3` for a number, refuses a key given twice (PyYAML lets the last one win) and
has no aliases: a file of a kilobyte could grow to gigabytes with them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Path = tuple[str | int, ...]
MAX_CHARACTERS = 64 * 1024


@dataclass(frozen=True)
class Problem:
    """What is wrong at which place, and its cure; lines and columns count from 1."""

    line: int
    column: int
    message: str


class DocumentError(Exception):
    """The file cannot be used; `problems` says why, in the order of its lines."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: (problem.line, problem.column))
        super().__init__("; ".join(f"line {p.line}: {p.message}" for p in self.problems))


@dataclass(frozen=True)
class Document:
    """The values of a file and where each key stands."""

    data: dict[str, Any]
    places: Mapping[Path, tuple[int, int]]

    def problem(self, path: Path, message: str) -> Problem:
        """A problem at `path`, or at the nearest part of it that the file has."""
        known = path
        while known not in self.places:
            known = known[:-1]
        name = dotted(path)
        return Problem(*self.places[known], f"{name}: {message}" if name else message)


def dotted(path: Path) -> str:
    """`train.params.epochs`, `tags[0]`."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")


def parse(text: str) -> Document:
    """Read a mapping from YAML text.

    Raises:
        DocumentError: it is not one.
    """
    if len(text) > MAX_CHARACTERS:
        raise DocumentError([Problem(1, 1, f"more than {MAX_CHARACTERS} characters; this is no such file")])
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        reader = _Reader(loader)
        data = reader.value(root, ()) if root else None
    except yaml.MarkedYAMLError as error:
        raise DocumentError([_syntax_problem(error, text)]) from None
    except yaml.reader.ReaderError as error:
        line, column = _place(text, error.position)
        raise DocumentError(
            [Problem(line, column, "a character that YAML does not allow; remove it")]
        ) from None
    except RecursionError:
        raise DocumentError([Problem(1, 1, "nested too deeply; close the brackets")]) from None
    if reader.problems:
        raise DocumentError(reader.problems)
    if data is None:
        raise DocumentError([Problem(1, 1, "the file is empty; write its keys or delete it")])
    if not isinstance(data, dict):
        raise DocumentError(
            [Problem(1, 1, f"expected keys and values, got {kind_of(data)}; write `key: value`")]
        )
    return Document(data, reader.places)


def kind_of(value: object) -> str:
    """What YAML made of a value, in words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "keys and values"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int | float):
        return f"the number {value}"
    return f"the text {value!r}" if isinstance(value, str) else f"the {type(value).__name__} {value}"


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, "aliases are not supported; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)


# YAML 1.1 takes 1e-3 for text, as it wants a point and a sign.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+\Z"), list("-+0123456789")
)


class _Reader:
    """Turns nodes into values, and notes places and problems on the way."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self.loader = loader
        self.places: dict[Path, tuple[int, int]] = {(): (1, 1)}
        self.problems: list[Problem] = []

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.places.setdefault(path, _mark(node.start_mark))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line, column = _mark(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self._report(key_node, path, "a key must be a word; put text with { or [ in quotes")
                continue
            name = key_node.value
            key = (*path, name)
            if name in values:
                first = self.places[key][0]
                self._report(key_node, key, f"given twice, first in line {first}; remove one of them")
                continue
            self.places[key] = (line, column)
            values[name] = self.value(value_node, key)
        return values

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        try:
            value = self.loader.construct_object(node)
        except (yaml.constructor.ConstructorError, ValueError, OverflowError):
            self._report(
                node,
                path,
                f"YAML cannot read {node.value[:40]!r} as {node.tag.rpartition(':')[2]}; put text in quotes",
            )
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._report(node, path, f"{value} is no usable number; write a finite one")
        return value

    def _report(self, node: yaml.Node, path: Path, message: str) -> None:
        self.problems.append(Problem(*_mark(node.start_mark), f"{dotted(path) or 'the file'}: {message}"))


def _mark(mark: Any) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1


def _place(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _syntax_problem(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark: Any = error.problem_mark or error.context_mark
    line, column = _mark(mark)
    if text[mark.index : mark.index + 1] == "\t":
        return Problem(line, column, "a tab; YAML indents with spaces, so put spaces there")
    began = (
        f" ({error.context} that began in line {error.context_mark.line + 1})" if error.context_mark else ""
    )
    return Problem(line, column, f"not YAML: {error.problem}{began}{_cure(error.problem or '')}")


def _cure(problem: str) -> str:
    if "aliases" in problem:
        return ""  # it says so itself
    if "mapping values" in problem:
        return "; put text with a colon in quotes, or correct the indentation"
    if "another document" in problem:
        return "; remove what follows ---, each model has a file of its own"
    return "; correct the indentation, a quote or a bracket"
