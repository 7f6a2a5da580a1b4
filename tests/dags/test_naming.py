"""Names and keys of tasks: deterministic, valid and distinct."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from trainyard.naming import MAX_LABEL, TaskIdentity, label_safe, run_key
from trainyard_contract import RUN_KEY


def test_names_are_the_same_again_and_never_shared() -> None:
    tasks = [
        TaskIdentity(dag, run, name, index, number)
        for dag in ("a", "a-b")
        for run in ("x:1", "x-1")
        for name in ("b", "c")
        for index in (-1, 1)
        for number in (1, 2)
    ]
    names = [task.job_name(1) for task in tasks]
    assert len(set(names)) == len(tasks)
    assert names == [task.job_name(1) for task in tasks]
    assert len({task.selector() for task in tasks}) == len(tasks) / 2, "tries share their selector"


def test_run_keys_are_shared_by_a_run_and_split_by_mapping() -> None:
    plain = TaskIdentity("d", "r", "train", -1, 1)
    assert plain.run_key() == run_key("d", "r") == "d__r"
    assert TaskIdentity("d", "r", "train", 2, 1).run_key() == "d__r__train-2"
    assert TaskIdentity("d", "r", "group.train", 2, 1, "group").run_key() == "d__r__group-2"
    assert run_key("d", "a:b") != run_key("d", "a+b")
    assert label_safe("x" * 64) != label_safe("x" * 65)


@pytest.mark.parametrize("dag_id", ["训练", "_private", "-", "a__b", "a_", "日本語.DAG", "A" * 250])
@pytest.mark.parametrize("task_id", ["训练", "_t", "t"])
def test_odd_ids_have_valid_names(dag_id: str, task_id: str) -> None:
    for run_id in ("r", "manual__2026-11-27T03:00:00+00:00", "_", "r" * 250):
        task = TaskIdentity(dag_id, run_id, task_id, 3, 1)
        assert RUN_KEY.fullmatch(run_key(dag_id, run_id)) and RUN_KEY.fullmatch(task.run_key())
        assert re.fullmatch(rf"[a-z0-9]([-a-z0-9]{{0,{MAX_LABEL - 2}}}[a-z0-9])?", task.job_name(1))
        for value in task.labels().values():
            assert re.fullmatch(rf"[A-Za-z0-9]([-A-Za-z0-9_.]{{0,{MAX_LABEL - 2}}}[A-Za-z0-9])?", value)


def test_runs_of_different_dags_never_share_a_key() -> None:
    pairs = [("a__b", "c"), ("a", "b__c"), ("a_", "b"), ("a", "_b"), ("a__b__c", "d"), ("a__b", "c__d")]
    keys = sorted(run_key(*pair) for pair in pairs)
    assert all(one != other for one, other in pairwise(keys))
    assert run_key("a", "manual__b") == "a__manual__b", "keys of runs that there are stay as they are"
