"""Every private or undocumented Airflow API that the library uses, in one place.

Tried on Airflow 3.3.2. tests/dags/test_airflow_compat.py has a contract test for each function: run it first
when Airflow is upgraded. Airflow is imported inside functions where the import is slow or is not needed to
parse DAG files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.dag_processing.importers import AbstractDagImporter
    from jinja2 import Environment

AIRFLOW_VERSION = "3.3.2"


def template_environment() -> Environment:
    """Airflow's Jinja environment for task templates, with its filters and macros."""
    from airflow.sdk.definitions._internal.templater import create_template_env

    return create_template_env()


def mapped_arguments(expand_input: Any) -> dict[str, Any]:
    """What `.expand()` or `.expand_kwargs()` was given, as `triggerer.mapping` reads it."""
    from airflow.sdk.definitions._internal.expandinput import DictOfListsExpandInput

    if isinstance(expand_input, DictOfListsExpandInput):
        return {"product": [list(item) for item in expand_input.value.items()]}
    return {"kwargs": expand_input.value}


def task_states(
    dag_id: str, run_id: str, *, task_ids: Sequence[str] | None = None, map_index: int | None = None
) -> dict[str, Any]:
    """States of the task instances of a run, by task id; those of mapped tasks by `TASK_INDEX`.

    Works in workers, in the dag-processor's callbacks and, in a thread, in triggers.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    asked: dict[str, Any] = {"dag_id": dag_id, "run_ids": [run_id]}
    if task_ids is not None:
        asked["task_ids"] = list(task_ids)
    if map_index is not None:
        asked["map_index"] = map_index
    return dict(RuntimeTaskInstance.get_task_states(**asked).get(run_id, {}))


def read_xcom(dag_id: str, run_id: str, task_id: str, key: str, map_index: int = -1) -> Any:
    """One XCom of one task instance; None where there is none."""
    from airflow.sdk.execution_time.xcom import XCom

    return XCom.get_one(key=key, dag_id=dag_id, task_id=task_id, run_id=run_id, map_index=map_index)


def read_own_xcom(ti_key: Any, key: str) -> Any:
    """An XCom of the task instance that an extra link belongs to."""
    from airflow.sdk.execution_time.xcom import XCom

    return XCom.get_value(ti_key=ti_key, key=key)


async def push_xcom(dag_id: str, run_id: str, task_id: str, map_index: int, xcoms: Mapping[str, Any]) -> None:
    """Push XComs of a task instance from a trigger.

    The `xcoms` of a TaskSuccessEvent would turn an object into its JSON text.
    """
    from airflow.sdk.execution_time.xcom import XCom

    for key, value in xcoms.items():
        await XCom.aset(key, value, dag_id=dag_id, task_id=task_id, run_id=run_id, map_index=map_index)


def register_importer(importer: AbstractDagImporter) -> None:
    """Let this process read DAG files of another type than Python.

    Airflow 3.3.2 asks its importers which files they read everywhere but in the dag-processor, which lists
    Python and zip files.
    """
    from airflow.dag_processing.importers import get_importer_registry
    from airflow.utils import file

    registry = get_importer_registry()
    registry.register(importer)
    file.find_dag_file_paths = registry.list_dag_files


def files_not_ignored(directory: str | PathLike[str]) -> Iterator[Path]:
    """The files below a DAG folder that no `.airflowignore` excludes."""
    from airflow._shared.module_loading import find_path_from_directory
    from airflow.configuration import conf

    syntax = conf.get_mandatory_value("core", "DAG_IGNORE_FILE_SYNTAX", fallback="glob")
    found: Iterable[str] = find_path_from_directory(directory, ".airflowignore", syntax)
    return map(Path, found)
