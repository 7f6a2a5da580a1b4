"""Templates as the triggerer renders them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator, task_group
from trainyard.triggerer.templates import TemplateError, as_template, render


def pull(task_ids: str, key: str, map_indexes: int, default: Any) -> Any:
    assert map_indexes == -1, "the triggerer cannot answer for several map indexes"
    return {("train", "return_value"): {"f1": 0.5}, ("train", "version"): "12e45678"}.get(
        (task_ids, key), default
    )


CONTEXT = {"params": {"epochs": 3, "rate": 0.1}, "ti": SimpleNamespace(xcom_pull=pull, try_number=2)}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ params.epochs }}", 3),
        ("{{ params.rate * 2 }}", 0.2),
        ("e{{ params.epochs }}-{{ params.rate }}", "e3-0.1"),
        ("{{ params.epochs }}{{ params.epochs }}", "33"),
        ("{{ ti.xcom_pull(task_ids='train') }}", {"f1": 0.5}),
        ("{{ ti.xcom_pull(task_ids='train', key='version') }}", "12e45678"),
        ("{{ ti.try_number }}", 2),
        ("file:///checkpoints/{{ run_key }}", "file:///checkpoints/k"),
        ("{% if params.epochs > 2 %}long{% endif %}", "long"),
        ('{"a": 1}', '{"a": 1}'),
        ("12", "12"),
        ([{"x": "{{ params.epochs }}"}, None, 1.5], [{"x": 3}, None, 1.5]),
    ],
)
def test_values_keep_their_type(template: Any, expected: Any) -> None:
    assert render({"field": template}, CONTEXT, run_key="k") == {"field": expected}


@pytest.mark.parametrize(
    "template",
    ["{{ params.nothing }}", "{{ nothing }}", "a {{ nothing }}", "{{ 1 +", "{{ params.epochs / 0 }}"],
)
def test_an_error_names_the_argument(template: str) -> None:
    with pytest.raises(TemplateError, match="step_params"):
        render({"step_params": {"x": template}}, CONTEXT)


def test_each_instance_of_a_mapped_group_has_arguments_and_outputs_of_its_own() -> None:
    inside: list[Any] = []

    @task_group
    def group(size: Any, name: Any) -> None:
        first = BaseOperator(task_id="first")
        inside.append(as_template([size, name, first.output["rows"]]))

    with DAG("d", schedule=None):
        sizes = BaseOperator(task_id="sizes").output
        group.expand(size=sizes, name=["a{{ params.epochs }}", "b"])

    def pulled(task_ids: str, key: str, map_indexes: int, default: Any) -> Any:
        return {("sizes", -1): [10, 20], ("group.first", 2): "rows of 2"}[task_ids, map_indexes]

    def rendered(group_of_reader: str) -> Any:
        found = SimpleNamespace(group_id=group_of_reader)
        reader = SimpleNamespace(get_closest_mapped_task_group=lambda: found)
        ti = SimpleNamespace(xcom_pull=pulled, map_index=2, task=reader)
        return render({"field": inside[0]}, {**CONTEXT, "ti": ti})

    assert rendered("group") == {"field": [20, "a3", "rows of 2"]}
    with pytest.raises(
        TemplateError, match=r"the mapped task group 'group', which this task is not in; collect"
    ):
        rendered("another")
