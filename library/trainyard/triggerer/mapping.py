"""The arguments of one instance of a mapped task, by Airflow's rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def resolve_mapped(request: Mapping[str, Any], map_index: int) -> dict[str, Any]:
    """Return `request` with the mapped arguments of instance `map_index`.

    The key `mapped` of `request` holds `{}` (not mapped), `{"product": [[name, values], ...]}` (`expand`: the
    cross product, in which the last argument changes fastest) or `{"kwargs": [arguments, ...]}`
    (`expand_kwargs`).

    Raises:
        ValueError: the values are no list, or have no item for the index.
    """
    resolved = dict(request)
    mapped = resolved.pop("mapped", {})
    if "kwargs" in mapped:
        return {**resolved, **_item(mapped["kwargs"], map_index, "expand_kwargs")}
    index = map_index
    for name, values in reversed(mapped.get("product", [])):
        if not values:
            raise ValueError(f"{name} is mapped over an empty list")
        resolved[name] = _item(values, index % len(values), name)
        index //= len(values)
    return resolved


def _item(values: Any, index: int, name: str) -> Any:
    if isinstance(values, Mapping):  # Airflow maps over the items of a dict
        values = list(values.items())
    if not isinstance(values, list | tuple) or not 0 <= index < len(values):
        raise ValueError(f"{name}: no item with index {index} in {values!r}")
    return values[index]
