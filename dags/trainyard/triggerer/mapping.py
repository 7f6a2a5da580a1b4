"""Which arguments the instance `map_index` of a mapped task has, counted as Airflow counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def resolve_mapped(request: Mapping[str, Any], map_index: int) -> dict[str, Any]:
    """Merge the mapped arguments of instance `map_index` into `request`, whose key `mapped` holds

    `{}` (not mapped), `{"product": [[name, values], ...]}` (`expand`: the cross product, in which the
    last argument changes fastest) or `{"kwargs": [arguments, ...]}` (`expand_kwargs`).

    Raises:
        ValueError: the values do not fit the index, or are not a list.
    """
    plain = dict(request)
    mapped = plain.pop("mapped", {})
    if "kwargs" in mapped:
        return {**plain, **_item(mapped["kwargs"], map_index, "expand_kwargs")}
    index = map_index
    for name, values in reversed(mapped.get("product", [])):
        if not values:
            raise ValueError(f"{name} is mapped over nothing")
        plain[name] = _item(values, index % len(values), name)
        index //= len(values)
    return plain


def _item(values: Any, index: int, name: str) -> Any:
    if isinstance(values, Mapping):  # Airflow maps over the items of a dict
        values = list(values.items())
    if not isinstance(values, list | tuple) or not 0 <= index < len(values):
        raise ValueError(f"{name}: nothing to map at index {index} in {values!r}")
    return values[index]
