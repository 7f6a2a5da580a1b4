"""Search spaces, budgets and winners of a sweep."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from trainyard import registry, sweep
from trainyard.sweep import Range, Rung, SpaceError, Trial

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
        sweep.parse_space(space)


def test_a_grid_is_counted_as_airflow_expands() -> None:
    assert sweep.settings("grid", {"a": [1, 2], "b": ["x", "y"]}, 99, 0) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    with pytest.raises(SpaceError, match="learning_rate is a range, of which a grid"):
        sweep.settings("grid", {"learning_rate": RATE}, 9, 0)


def test_random_draws_are_the_same_for_the_same_seed_and_lie_in_their_range() -> None:
    space = {"learning_rate": RATE, "hidden": {"low": 8, "high": 64}, "dropout": {"low": 0, "high": 0.5}}
    drawn = sweep.settings("random", space, 200, seed=1)
    assert drawn == sweep.settings("random", space, 200, seed=1) != sweep.settings("random", space, 200, 2)
    assert all(1e-4 <= each["learning_rate"] <= 0.1 for each in drawn)
    assert all(isinstance(each["hidden"], int) and 8 <= each["hidden"] <= 64 for each in drawn)
    assert all(isinstance(each["dropout"], float) for each in drawn)
    # Log-uniform: as many below the geometric mean as above it; uniform would give 3 in 100.
    below = sum(each["learning_rate"] < math.sqrt(1e-4 * 0.1) for each in drawn)
    assert 70 <= below <= 130


def test_a_product_gives_every_combination_the_same_draws() -> None:
    trials = sweep.settings("product", {"batch_size": [32, 64], "learning_rate": RATE}, 3, seed=0)
    rates = [[t["learning_rate"] for t in trials if t["batch_size"] == size] for size in (32, 64)]
    assert len(trials) == 6 and rates[0] == rates[1] and len(set(rates[0])) == 3
    assert sweep.settings("product", {"batch_size": [32, 64]}, 3, seed=0) == [
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
        sweep.settings(strategy, space, trials, 0)


def test_the_limit_is_airflows_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "3")
    with pytest.raises(SpaceError, match=r"4 trials are more than .*\(3, core"):
        sweep.settings("grid", {"a": [1, 2, 3, 4]}, 1, 0)
    assert len(sweep.settings("grid", {"a": [1, 2, 3]}, 1, 0)) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((9, 9, 3, 3), [Rung(9, 1), Rung(3, 3), Rung(1, 9)]),
        ((9, 12, 2, 3), [Rung(9, 4), Rung(3, 12)]),
        ((9, 12, 1, 3), [Rung(9, 12)]),
        ((4, 10, 3, 2), [Rung(4, 3), Rung(2, 5), Rung(1, 10)]),
        ((2, 9, 3, 3), [Rung(2, 1), Rung(1, 3), Rung(1, 9)]),
        ((9, 2, 3, 3), [Rung(9, 1), Rung(3, 2)]),  # a round must add an epoch
        ((9, 1, 3, 3), [Rung(9, 1)]),
    ],
)
def test_successive_halving(arguments: tuple[int, int, int, int], expected: list[Rung]) -> None:
    assert sweep.rungs(*arguments) == expected


def trials(number: int = 3) -> list[dict[str, Any]]:
    common = {"model": "digits", "epochs": 9}
    return [
        sweep.trial_arguments(i, {"learning_rate": i / 10}, parent="sweep__r", common=common)
        for i in range(number)
    ]


def test_a_trial_keeps_its_run_key_from_round_to_round() -> None:
    first = trials()[1]
    assert first["run_key"] == "sweep__r__trial-1" and first["parent_run_key"] == "sweep__r"
    assert first["output_uri"] == "file:///checkpoints/sweep__r__trial-1/model"
    early, last = sweep.until(first, Rung(3, 3)), sweep.until(first, Rung(1, 9))
    assert early["run_key"] == last["run_key"] == first["run_key"]
    assert (early["step_params"]["stop_after"], last["step_params"]["stop_after"]) == (3, 0)
    assert "stop_after" not in first["step_params"]


def test_keys_of_a_long_run_id_stay_apart() -> None:
    keys = {sweep.trial_arguments(i, {}, parent="p" * 119, common={})["run_key"] for i in range(20)}
    assert len(keys) == 20 and all(len(key) <= 120 for key in keys)


class FinishedRun:
    """The task instance of a task after the training: trial 1 failed, trial 2 has the better score.

    The real one asks Airflow's API, for which the end-to-end tests have a cluster.
    """

    dag_id, run_id = "sweep", "r"

    def get_task_states(self, dag_id: str, *, task_ids: list[str], run_ids: list[str]) -> dict[str, Any]:
        assert (dag_id, task_ids, run_ids) == ("sweep", ["rung_1.train"], ["r"])
        return {"r": {f"rung_1.train_{i}": "failed" if i == 1 else "success" for i in range(3)}}

    def xcom_pull(self, *, task_ids: str, map_indexes: list[int], key: str = "return_value") -> list[Any]:
        failure = {"cause": "bad_config", "message": "learning_rate is 99\nuse 0 to 10"}
        # What trial 1 left when it succeeded, before it was cleared.
        results = [{"score": 0.8}, {"score": 0.99}, {"score": 0.9}]
        values = {"return_value": results, "failure": [None, failure, None]}[key]
        return [values[index] for index in map_indexes]


def test_the_state_decides_and_a_failed_trial_has_its_cause() -> None:
    outcomes = sweep.collect(FinishedRun(), "rung_1.train", trials())
    assert [trial.error for trial in outcomes] == ["", "bad_config: learning_rate is 99\nuse 0 to 10", ""]
    assert [trial.key for trial in sweep.ranked(outcomes)] == ["sweep__r__trial-2", "sweep__r__trial-0"]
    assert sweep.collect(FinishedRun(), "rung_2.train", []) == []


def test_a_score_of_nan_never_wins() -> None:
    first, second, third = trials()
    outcomes = [
        sweep.judge(first, "success", {"score": float("nan")}, None),
        sweep.judge(second, "success", {"score": 0.5}, None),
        sweep.judge(third, "success", None, None),
    ]
    assert sweep.best([outcomes]).key == "sweep__r__trial-1"
    assert "score is nan" in outcomes[0].error and "score is None" in outcomes[2].error


def test_the_winner_comes_from_the_last_round_that_was_survived() -> None:
    first, second, _ = trials()
    early = [Trial(first, {"score": 0.9}), Trial(second, {"score": 0.8})]
    assert sweep.best([early, [Trial(second, {"score": 0.85})]]).key == "sweep__r__trial-1"
    assert sweep.best([early, [Trial(first, error="node_lost: gone")], []]).key == "sweep__r__trial-0"


def test_when_all_trials_failed_all_causes_are_listed() -> None:
    outcomes = [Trial(arguments, error=f"oom: {i} GiB") for i, arguments in enumerate(trials(2))]
    with pytest.raises(AirflowFailException, match="trial 0: oom: 0 GiB; trial 1: oom: 1 GiB"):
        sweep.best([outcomes, []])
    with pytest.raises(AirflowFailException, match="none was started"):
        sweep.best([[]])


def test_the_table_shows_what_differs_and_the_best_first() -> None:
    outcomes = sweep.collect(FinishedRun(), "rung_1.train", trials())
    lines = sweep.table(
        [outcomes, [Trial(sweep.until(trials()[2], Rung(1, 3)), {"score": 0.95})]]
    ).splitlines()
    assert lines == [
        "| trial | learning_rate | round | score | outcome |",
        "|---|---|---|---|---|",
        "| 2 | 0.2 | 2 | 0.9500 | ok |",
        "| 0 | 0.0 | 1 | 0.8000 | ok |",
        "| 1 | 0.1 | 1 |  | bad_config: learning_rate is 99 use 0 to 10 |",
    ]
    assert sweep.table([[]]).startswith("| trial | round")


def test_the_table_lands_on_the_parent_run(tmp_path: Path) -> None:
    client = registry.connect(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("sweep", (tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment, tags={"trainyard.run_key": "sweep__r"}).info.run_id
    sweep.record(client, "sweep", "sweep__r", "| trial |", {"trials": 3})
    assert client.get_run(run).data.tags["trainyard.sweep_trials"] == "3"
    assert [file.path for file in client.list_artifacts(run)] == ["sweep.md"]
    sweep.record(client, "never trained", "k", "", {})


def test_a_range_of_whole_numbers_reaches_both_ends() -> None:
    drawn = sweep.sample({"layers": Range(1, 3)}, 200, 0)
    assert {each["layers"] for each in drawn} == {1, 2, 3}
