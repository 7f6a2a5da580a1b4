"""Budgets, trials and winners of a sweep."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from airflow.sdk.execution_time import comms, task_runner
from trainyard.failures import TaskFailed
from trainyard.mlflow_client import MlflowClient
from trainyard.tuning import sweep
from trainyard.tuning.sweep import Rung, Trial


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


def test_the_trials_of_a_run_share_its_params_and_lie_under_it() -> None:
    run = SimpleNamespace(dag_id="sweep", run_id="r")
    context = {"params": {"epochs": 9, "seed": 7}, "dag_run": run}
    settings = [{"learning_rate": 0.1}, {"learning_rate": 0.2, "seed": 8}]
    first, second = sweep.trials_of_run(context, settings, model="digits", features_uri="")
    assert first["step_params"] == {
        **{"model": "digits", "epochs": 9, "seed": 7, "features_uri": "", "learning_rate": 0.1}
    }
    assert second["step_params"]["seed"] == 8
    assert [each["run_key"] for each in (first, second)] == ["sweep__r__trial-0", "sweep__r__trial-1"]
    assert {each["parent_run_key"] for each in (first, second)} == {"sweep__r"}


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


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run after the training: trial 1 failed, trial 2 has the better score.

    Airflow's supervisor answers; triggerer/test_in_airflow.py asks the real one.
    """
    failure = {"cause": "bad_config", "message": "learning_rate is 99\nuse 0 to 10"}
    # Trial 1 has a result as well: from its first time, before it was cleared.
    results = [{"score": 0.8}, {"score": 0.99}, {"score": 0.9}]

    class Supervisor:
        def send(self, request: Any) -> Any:
            assert (request.dag_id, request.task_ids, request.run_ids) == ("sweep", ["rung_1.train"], ["r"])
            states = {f"rung_1.train_{i}": "failed" if i == 1 else "success" for i in range(3)}
            return comms.TaskStatesResult(task_states={"r": states})

        async def asend(self, request: Any) -> Any:
            assert (request.dag_id, request.run_id, request.task_id) == ("sweep", "r", "rung_1.train")
            values = {"return_value": results, "failure": [None, failure, None]}[request.key]
            return comms.XComResult(key=request.key, value=values[request.map_index])

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(), raising=False)


def collected(task_id: str, arguments: list[dict[str, Any]]) -> list[Trial]:
    return asyncio.run(sweep.collect("sweep", "r", task_id, arguments))


def test_the_state_decides_and_a_failed_trial_has_its_cause(finished: None) -> None:
    outcomes = collected("rung_1.train", trials())
    assert [trial.error for trial in outcomes] == ["", "bad_config: learning_rate is 99\nuse 0 to 10", ""]
    assert [trial.key for trial in sweep.ranked(outcomes)] == ["sweep__r__trial-2", "sweep__r__trial-0"]
    assert collected("rung_2.train", []) == []


def test_results_are_read_side_by_side_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    number, running, most = 3 * sweep.READS_AT_ONCE, 0, 0

    class Supervisor:
        def send(self, request: Any) -> Any:
            return comms.TaskStatesResult(task_states={"r": {f"train_{i}": "success" for i in range(number)}})

        async def asend(self, request: Any) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001 * (number - request.map_index))  # the last one answers first
            running -= 1
            return comms.XComResult(key=request.key, value={"score": request.map_index})

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(), raising=False)
    assert [trial.score for trial in collected("train", trials(number))] == list(range(number))
    assert most == sweep.READS_AT_ONCE


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
    with pytest.raises(TaskFailed, match="trial 0: oom: 0 GiB; trial 1: oom: 1 GiB"):
        sweep.best([outcomes, []])
    with pytest.raises(TaskFailed, match="none was started"):
        sweep.best([[]])


def test_the_table_shows_what_differs_and_the_best_first(finished: None) -> None:
    outcomes = collected("rung_1.train", trials())
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


def test_the_table_lands_on_the_parent_run(mlflow_uri: str) -> None:
    witness = mlflow.MlflowClient(mlflow_uri, mlflow_uri)
    experiment = witness.create_experiment("sweep")
    run = witness.create_run(experiment, tags={"trainyard.run_key": "sweep__r"}).info.run_id

    async def record() -> None:
        async with MlflowClient(mlflow_uri) as client:
            await sweep.record(client, "sweep", "sweep__r", "| trial |", {"trials": 3})
            await sweep.record(client, "never trained", "k", "", {})

    asyncio.run(record())
    assert witness.get_run(run).data.tags["trainyard.sweep_trials"] == "3"
    assert [file.path for file in witness.list_artifacts(run)] == ["sweep.md"]
