"""Names and keys of tasks: deterministic, valid and distinct."""

from __future__ import annotations

from trainyard.naming import TaskIdentity, label_safe, run_key


def test_names_are_the_same_again_and_never_shared() -> None:
    tasks = [
        TaskIdentity(dag, run, name, index, number)
        for dag in ("a", "a-b")
        for run in ("x:1", "x-1")
        for name in ("b", "c")
        for index in (-1, 1)
        for number in (1, 2)
    ]
    names = [task.pod_name(1) for task in tasks]
    assert len(set(names)) == len(tasks)
    assert names == [task.pod_name(1) for task in tasks]
    assert len({task.selector() for task in tasks}) == len(tasks) / 2, "tries share their selector"


def test_run_keys_are_shared_by_a_run_and_split_by_mapping() -> None:
    plain = TaskIdentity("d", "r", "train", -1, 1)
    assert plain.run_key() == run_key("d", "r") == "d__r"
    assert TaskIdentity("d", "r", "train", 2, 1).run_key() == "d__r__train-2"
    assert run_key("d", "a:b") != run_key("d", "a+b")
    assert label_safe("x" * 64) != label_safe("x" * 65)
