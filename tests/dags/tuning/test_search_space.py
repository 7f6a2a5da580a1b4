"""Search spaces, and the settings that each strategy takes from them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from trainyard.tuning import search_space
from trainyard.tuning.search_space import Range, SpaceError

RATE = {"low": 1e-4, "high": 1e-1, "log": True}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space is empty"),
        ({"learning_rate": 0.1}, "learning_rate is 0.1; use a list"),
        ({"learning_rate": []}, "learning_rate has no values"),
        ({"learning_rate": {"low": 1, "high": 1}}, "learning_rate goes from low=1 to high=1"),
        ({"learning_rate": {"low": "a", "high": 1}}, "learning_rate goes from low='a'"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "learning_rate has log and low=0"),
        ({"learning_rate": {"low": 0, "high": 1, "log": "yes"}}, "learning_rate has log='yes'"),
        ({"learning_rate": {"low": 0, "high": float("nan")}}, "learning_rate goes from"),
        ({"learning_rate": {"min": 0, "max": 1}}, "learning_rate has max, min; a range knows"),
        ({"epochs": [1, 2]}, "epochs is set by the sweep"),
    ],
)
def test_a_bad_space_names_the_parameter(space: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message.replace("(", r"\(")):
        search_space.parse_space(space)


def test_a_grid_is_counted_as_airflow_expands() -> None:
    assert search_space.settings("grid", {"a": [1, 2], "b": ["x", "y"]}, 99, 0) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    with pytest.raises(SpaceError, match="learning_rate is a range, of which a grid"):
        search_space.settings("grid", {"learning_rate": RATE}, 9, 0)


def test_random_draws_are_the_same_for_the_same_seed_and_lie_in_their_range() -> None:
    space = {"learning_rate": RATE, "hidden": {"low": 8, "high": 64}, "dropout": {"low": 0, "high": 0.5}}
    drawn = search_space.settings("random", space, 200, seed=1)
    assert (
        drawn
        == search_space.settings("random", space, 200, seed=1)
        != search_space.settings("random", space, 200, 2)
    )
    assert all(1e-4 <= each["learning_rate"] <= 0.1 for each in drawn)
    assert all(isinstance(each["hidden"], int) and 8 <= each["hidden"] <= 64 for each in drawn)
    assert all(isinstance(each["dropout"], float) for each in drawn)
    # Log-uniform: as many below the geometric mean as above it; uniform would give 3 in 100.
    below = sum(each["learning_rate"] < math.sqrt(1e-4 * 0.1) for each in drawn)
    assert 70 <= below <= 130


def test_a_product_gives_every_combination_the_same_draws() -> None:
    trials = search_space.settings("product", {"batch_size": [32, 64], "learning_rate": RATE}, 3, seed=0)
    rates = [[t["learning_rate"] for t in trials if t["batch_size"] == size] for size in (32, 64)]
    assert len(trials) == 6 and rates[0] == rates[1] and len(set(rates[0])) == 3
    assert search_space.settings("product", {"batch_size": [32, 64]}, 3, seed=0) == [
        {"batch_size": 32},
        {"batch_size": 64},
    ]


@pytest.mark.parametrize(
    ("strategy", "space", "trials"),
    [
        ("grid", {name: list(range(100)) for name in "abcdef"}, 1),
        ("random", {"a": [1]}, 2000),
        ("product", {"a": list(range(100)), "b": RATE}, 20),
    ],
)
def test_more_than_airflow_maps_over_is_refused_before_mapping(
    strategy: str, space: dict[str, Any], trials: int
) -> None:
    with pytest.raises(SpaceError, match=r"\d+ trials are more than Airflow maps over \(1024, core.max_map"):
        search_space.settings(strategy, space, trials, 0)


def test_the_limit_is_airflows_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "3")
    with pytest.raises(SpaceError, match=r"4 trials are more than .*\(3, core"):
        search_space.settings("grid", {"a": [1, 2, 3, 4]}, 1, 0)
    assert len(search_space.settings("grid", {"a": [1, 2, 3]}, 1, 0)) == 3


def test_a_range_of_whole_numbers_reaches_both_ends() -> None:
    drawn = search_space.sample({"layers": Range(1, 3)}, 200, 0)
    assert {each["layers"] for each in drawn} == {1, 2, 3}
