"""The real DagBag on dags/: everything imports, is described, ends some time, and is cheap to parse."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.param import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization
from fresh_process import output_of

DAGS = Path(__file__).parents[3] / "dags"


@pytest.fixture(scope="module")
def dagbag() -> DagBag:
    return DagBag(dag_folder=DAGS)


def test_every_file_imports_and_the_library_is_not_taken_for_dags(dagbag: DagBag) -> None:
    assert dagbag.import_errors == {}
    of_models = {f"{path.stem}_training" for path in DAGS.glob("models/*.yaml")}
    of_files = {path.stem for path in DAGS.glob("*.py")}
    assert set(dagbag.dags) == of_files | of_models


def test_every_dag_says_what_it_is(dagbag: DagBag) -> None:
    for dag in dagbag.dags.values():
        assert dag.tags and dag.doc_md and dag.description, dag.dag_id
        assert "airflow" not in dag.owner, f"{dag.dag_id} has no owner"
        for name, param in dag.params.items():
            assert dag.params.get_param(name).description, f"{dag.dag_id}: param {name} ({param})"


def test_no_param_takes_a_number_that_kills_the_triggerer(dagbag: DagBag) -> None:
    # Airflow 3.3.2: msgpack between the triggerer's processes takes 64 bits, and no exception is caught.
    for dag in dagbag.dags.values():
        for name in dag.params:
            param = dag.params.get_param(name)
            if param.schema.get("type") in ("integer", "number"):
                assert -(2**63) <= param.schema["minimum"] <= param.schema["maximum"] < 2**63, name
                with pytest.raises(ParamValidationError):
                    param.resolve(10**30)


def test_every_task_is_retried_and_ends_some_time(dagbag: DagBag) -> None:
    for dag in dagbag.dags.values():
        assert dag.dagrun_timeout, dag.dag_id
        for task in dag.tasks:
            limit = task.execution_timeout or (task.start_trigger_args and task.start_trigger_args.timeout)
            assert limit, f"{dag.dag_id}.{task.task_id} may run for ever"
            assert task.retries >= 1, f"{dag.dag_id}.{task.task_id}"


def test_every_dag_survives_serialization(dagbag: DagBag) -> None:
    for dag in dagbag.dags.values():
        encoded = json.loads(json.dumps(DagSerialization.to_dict(dag)))
        assert set(DagSerialization.from_dict(encoded).task_ids) == set(dag.task_ids)


def test_the_digits_pipeline(dagbag: DagBag) -> None:
    dag = dagbag.dags["digits_training"]
    order = ["validate", "preprocess", "train", "evaluate", "gate", "promote", "notify", "clean_up"]
    assert [task.task_id for task in dag.topological_sort()] == order
    for before, after in pairwise(order):
        assert after in dag.get_task(before).downstream_task_ids
    assert dag.get_task("train").pool == "gpu-ondemand"


@pytest.mark.parametrize(("name", "value"), [("pool", "cloud"), ("epochs", 0), ("min_f1", 1.5)])
def test_a_bad_value_of_a_param_is_refused_before_the_run(dagbag: DagBag, name: str, value: object) -> None:
    params = dagbag.dags["digits_training"].params
    with pytest.raises(ParamValidationError):
        params.get_param(name).resolve(value)


def test_parsing_imports_neither_mlflow_nor_kubernetes() -> None:
    code = (
        "import sys, airflow.sdk, digits_training, trainyard.factory.importer\n"
        "assert trainyard.factory.importer.ModelImporter().import_file('models/churn.yaml').dags\n"
        "print([m for m in ('mlflow', 'kubernetes', 'kubernetes_asyncio', 'torch') if m in sys.modules])"
    )
    assert output_of(code, DAGS).splitlines()[-1] == "[]"
