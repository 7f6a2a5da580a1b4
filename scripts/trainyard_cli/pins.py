"""Writes images and revision into an environment.yaml, as a person would who has them to change."""

from __future__ import annotations

import io
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

Json = dict[str, Any]


def pinned(text: str, images: Json, revision: str = "") -> str:
    """Return an environment.yaml with these images, and this revision if one is given.

    Comments and order are kept.
    """
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 2**16
    editor.indent(mapping=2, sequence=4, offset=2)
    content = editor.load(text)
    environment = content["environment"]
    if revision:
        environment["revision"] = _scalar(revision, environment["revision"])
    _write(environment["images"], images)
    stream = io.StringIO()
    editor.dump(content, stream)
    return stream.getvalue()


def _write(target: CommentedMap, source: Json) -> None:
    for key in [each for each in target if each not in source]:
        del target[key]
    for key, value in source.items():
        if isinstance(value, dict):
            if not isinstance(target.get(key), dict):
                target[key] = CommentedMap()
            _write(target[key], value)
        elif target.get(key) != value:
            target[key] = _scalar(value, target.get(key))


def _scalar(text: str, before: Any) -> str:
    """Return the text, in quotes where a reader of YAML could take it for a number or the like."""
    quoted = isinstance(before, DoubleQuotedScalarString) or yaml.safe_load(text) != text or _is_number(text)
    return DoubleQuotedScalarString(text) if quoted else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
