"""The arguments of the instances of a mapped task."""

from __future__ import annotations

import pytest
from trainyard.triggerer.mapping import resolve_mapped


@pytest.mark.parametrize(("index", "expected"), [(0, (1, "a")), (1, (1, "b")), (2, (2, "a")), (5, (3, "b"))])
def test_a_product_is_counted_as_airflow_counts(index: int, expected: tuple[int, str]) -> None:
    request = resolve_mapped({"mapped": {"product": [["x", [1, 2, 3]], ["y", ["a", "b"]]]}}, index)
    assert (request["x"], request["y"]) == expected


def test_an_index_outside_of_what_is_mapped_is_an_error() -> None:
    with pytest.raises(ValueError, match="index 2"):
        resolve_mapped({"mapped": {"kwargs": [{}, {}]}}, 2)
