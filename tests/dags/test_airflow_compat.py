"""The private Airflow APIs in use are what the library takes them for, in the Airflow that is installed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import airflow
import pytest
from airflow.dag_processing.importers import get_importer_registry
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.api.datamodels._generated import TaskStatesResponse, XComResponse
from airflow.sdk.execution_time import comms, task_runner
from airflow.utils import file
from trainyard import airflow_compat
from trainyard.factory.importer import ModelImporter

TASK = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}


class Supervisor:
    """Answers like the process that a task, a callback or a trigger asks, and keeps the requests."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.requests: list[Any] = []

    def send(self, request: Any) -> Any:
        self.requests.append(request)
        return self.answer

    async def asend(self, request: Any) -> Any:
        return self.send(request)


@pytest.fixture
def supervise(monkeypatch: pytest.MonkeyPatch) -> Any:
    def _supervise(answer: Any = None) -> Supervisor:
        supervisor = Supervisor(answer)
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
        return supervisor

    return _supervise


def test_it_was_tried_on_the_airflow_that_is_installed() -> None:
    assert airflow.__version__ == airflow_compat.AIRFLOW_VERSION


def test_the_template_environment_has_airflows_filters_and_is_strict_about_names() -> None:
    environment = airflow_compat.template_environment()
    assert {"ds", "ts_nodash"} <= set(environment.filters)


@pytest.mark.parametrize(
    ("expand", "wanted"),
    [
        (lambda task: task.expand(x=[1, 2], y=["a"]), {"product": [["x", [1, 2]], ["y", ["a"]]]}),
        (lambda task: task.expand_kwargs([{"x": 1}]), {"kwargs": [{"x": 1}]}),
    ],
)
def test_mapped_arguments_are_those_of_expand(expand: Any, wanted: dict[str, Any]) -> None:
    class Operator(BaseOperator):
        def __init__(self, *, x: int = 0, y: str = "", **kwargs: Any) -> None:
            super().__init__(**kwargs)

    with DAG("d", schedule=None):
        mapped = expand(Operator.partial(task_id="t"))
    assert airflow_compat.mapped_arguments(mapped._get_specified_expand_input()) == wanted


def test_task_states_are_asked_for_one_run(supervise: Any) -> None:
    answer = comms.TaskStatesResult.from_api_response(TaskStatesResponse(task_states={"r": {"t": "failed"}}))
    supervisor = supervise(answer)
    assert airflow_compat.task_states("d", "r", task_ids=["t"], map_index=-1) == {"t": "failed"}
    (request,) = supervisor.requests
    assert isinstance(request, comms.GetTaskStates)
    assert (request.dag_id, request.run_ids, request.task_ids, request.map_index) == ("d", ["r"], ["t"], -1)


def test_one_xcom_is_read(supervise: Any) -> None:
    supervisor = supervise(comms.XComResult.from_xcom_response(XComResponse(key="k", value=7)))
    assert airflow_compat.read_xcom("d", "r", "t", "k") == 7
    assert isinstance(supervisor.requests[0], comms.GetXCom)


def test_xcoms_are_pushed_as_objects(supervise: Any) -> None:
    supervisor = supervise()
    asyncio.run(airflow_compat.push_xcom("d", "r", "t", -1, {"return_value": {"a": 1}}))
    (request,) = supervisor.requests
    assert isinstance(request, comms.SetXCom)
    assert request.model_dump(include=set(TASK)) == TASK
    assert request.value == {"a": 1}


def test_the_dag_processor_lists_the_files_of_a_registered_importer(tmp_path: Path) -> None:
    airflow_compat.register_importer(ModelImporter())
    (tmp_path / "models").mkdir()
    (tmp_path / "models/m.yaml").write_text("")
    (tmp_path / "ignored").mkdir()
    (tmp_path / "ignored/models").mkdir()
    (tmp_path / "ignored/models/n.yaml").write_text("")
    (tmp_path / ".airflowignore").write_text("ignored/\n")
    assert [str(path) for path in file.find_dag_file_paths(tmp_path, False)] == [
        str(tmp_path / "models/m.yaml")
    ]
    assert get_importer_registry().get_importer("m.yaml").__class__ is ModelImporter
    assert tmp_path / "ignored/models/n.yaml" not in set(airflow_compat.files_not_ignored(tmp_path))
