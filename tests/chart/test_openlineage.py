"""Lineage events are off unless somebody receives them."""

from __future__ import annotations

import pytest
from render import ChartError, platform, render_chart


def test_nobody_receives_lineage_by_default() -> None:
    assert "openlineage" not in platform(render_chart())


def test_a_receiver_is_told_to_the_dag_library() -> None:
    values = {"openlineage": {"url": "http://marquez:5000"}}
    assert platform(render_chart(values=values))["openlineage"] == {
        "url": "http://marquez:5000",
        "namespace": "trainyard",
    }


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(ChartError, match=r"openlineage"):
        render_chart(values={"openlineage": {"url": "marquez:5000"}})
