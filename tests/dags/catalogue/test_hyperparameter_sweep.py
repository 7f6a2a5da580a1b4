"""hyperparameter_sweep: rounds, what survives them, and what a run may ask for."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.definitions.param import ParamValidationError
from hyperparameter_sweep import PARAMS, RUNGS, SOURCES, dag
from trainyard.triggerer.templates import render
from trainyard.tuning import search_space


def test_each_round_trains_what_survived_the_one_before() -> None:
    lists = ["candidates", *(f"rung_{rung}.survivors" for rung in range(1, RUNGS + 1))]
    for rung in range(1, RUNGS + 1):
        train = dag.get_task(f"rung_{rung}.train")
        mapped = train.start_trigger_args.trigger_kwargs["request"]["mapped"]["kwargs"]
        assert f"task_ids='{lists[rung - 1]}'" in mapped
        survivors = dag.get_task(lists[rung])
        assert survivors.upstream_task_ids == {"candidates", lists[rung - 1], f"rung_{rung}.train"}
        # Failed trials do not stop a round; a round that is not needed is skipped, and so is its judge.
        assert survivors.trigger_rule == "all_done_min_one_success"


def test_the_winner_comes_after_the_rounds_that_were_needed() -> None:
    best = dag.get_task("best")
    assert best.trigger_rule == "none_failed"
    assert best.upstream_task_ids == {"candidates", *(f"rung_{rung}.survivors" for rung in (1, 2, 3))}


def test_the_winner_goes_on_under_its_own_run() -> None:
    for task_id in ("winner.refit", "winner.evaluate"):
        request = dag.get_task(task_id).start_trigger_args.trigger_kwargs["request"]
        assert "task_ids='best', key='run_key'" in request["run_key"]
    refit = dag.get_task("winner.refit").start_trigger_args.trigger_kwargs["request"]
    assert "task_ids='best', key='step_params'" in refit["step_params"]


def test_the_winner_is_registered_and_promotes_nothing() -> None:
    register = dag.get_task("winner.register_challenger")
    assert register.arguments["decision"]["passed"] is False
    assert register.upstream_task_ids == {"winner.evaluate"}
    assert "notify" in register.downstream_task_ids


def test_features_only_for_models_which_have_them() -> None:
    steps = dag.get_task("data.steps")
    assert steps.downstream_task_ids == {"data.preprocess", "data.features"}
    assert dag.get_task("candidates").trigger_rule == "none_failed"


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"model": "digits", "source": ""}, "sklearn://digits"),
        ({"model": "fraud", "source": "file:///data/x.csv"}, "file:///data/x.csv"),
        *(({"model": model, "source": ""}, source) for model, source in SOURCES.items()),
    ],
)
def test_each_model_has_its_data(params: dict[str, Any], expected: str) -> None:
    request = dag.get_task("data.validate").start_trigger_args.trigger_kwargs["request"]
    rendered = render({"dataset": request["dataset"]}, {"params": params, "ti": None})
    assert rendered == {"dataset": expected}


def test_the_split_is_the_models_own_unless_a_run_says_otherwise() -> None:
    assert PARAMS["split"].resolve() == ""
    assert PARAMS["split"].resolve("group") == "group"
    for task_id in ("data.validate", "data.preprocess"):
        request = dag.get_task(task_id).start_trigger_args.trigger_kwargs["request"]
        for split in ("", "group"):
            context = {"params": {"split": split}, "ti": None}
            assert render({"split": request["step_params"]["split"]}, context) == {"split": split}


@pytest.mark.parametrize(
    "space",
    [
        {"learning_rate": [10**30]},
        {"learning_rate": {"low": 1, "high": 10**30}},
        {"learning_rate": 0.1},
        {"learning_rate": [[1]]},
        [],
    ],
)
def test_a_space_that_would_harm_is_refused_before_the_run(space: object) -> None:
    with pytest.raises(ParamValidationError):
        PARAMS["space"].resolve(space)


def test_the_space_that_the_form_shows_is_a_good_one() -> None:
    space = PARAMS["space"].resolve()
    assert len(search_space.settings("grid", space, 9, 0)) == 9
    mixed = {"learning_rate": {"low": 0.0001, "high": 0.1, "log": True}, "batch_size": [32, 64]}
    assert PARAMS["space"].resolve(mixed) == mixed


@pytest.mark.parametrize("source", ["x.csv", "file:///a b", "{{ conn }}://", "file:///{{ var.value.x }}"])
def test_a_source_is_a_plain_uri(source: str) -> None:
    with pytest.raises(ParamValidationError):
        PARAMS["source"].resolve(source)
