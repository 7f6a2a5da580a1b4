"""The installed wheel does all that Airflow needs: no path, no local settings, no copy in the DAG folder."""

from __future__ import annotations

import re
import sqlite3
import tomllib
from pathlib import Path

import pytest
from clean_environment import ROOT, Installed

pytest_plugins = ("clean_environment",)
BOTH = {"digits_training": "digits_training.py", "churn_training": "models/churn.yaml"}


@pytest.fixture(scope="module")
def parsed(installed: Installed) -> Installed:
    """After the dag-processor has read the folder once: a manager that lists files, a process for each."""
    installed.airflow("db migrate", "dag-processor --num-runs 1")
    return installed


@pytest.fixture(scope="module")
def listed(parsed: Installed) -> str:
    """What the command line lists, the DAGs from their files."""
    return parsed.airflow(
        "providers list -o plain",
        "providers get trainyard --full -o plain",
        "providers links -o plain",
        "dags list --local -o plain",
    )


def test_the_library_is_imported_from_its_distribution(installed: Installed) -> None:
    (path,) = installed.python("import trainyard; print(trainyard.__file__)")
    assert Path(path).parts[-3:] == ("site-packages", "trainyard", "__init__.py")
    assert list(installed.dags.glob("trainyard*")) == []


def test_airflow_knows_it_as_a_provider(listed: str) -> None:
    (version,) = re.findall(r"^trainyard +Trains models .* (\S+)$", listed, re.M)
    assert version == tomllib.loads((ROOT / "library/pyproject.toml").read_text())["project"]["version"]
    assert "trainyard.operators" in listed


def test_airflow_knows_its_links(listed: str) -> None:
    links = {"trainyard.training.links.MLflowRunLink", "trainyard.training.links.WhyPendingLink"}
    assert links <= set(listed.split())


def test_the_command_line_reads_dag_files_and_model_files(parsed: Installed, listed: str) -> None:
    lines = (line.split() for line in listed.splitlines() if line.partition(" ")[0] in BOTH)
    assert {dag: file for dag, file, *_ in lines} == {
        dag: str(parsed.dags / file) for dag, file in BOTH.items()
    }


def test_the_dag_processor_reads_dag_files_and_model_files(parsed: Installed) -> None:
    with sqlite3.connect(parsed.dags.parent / "home/airflow.db") as database:
        dags = database.execute("select dag_id, relative_fileloc from dag").fetchall()
        errors = database.execute("select filename, stacktrace from import_error").fetchall()
    assert errors == []
    assert dict(dags) == BOTH


def test_a_stored_task_offers_its_links(parsed: Installed) -> None:
    # As the api-server reads it: from the database, without the DAG file.
    code = """
from airflow.models.dagbag import DBDagBag
from airflow.utils.session import create_session
with create_session() as session:
    for dag_id in ("digits_training", "churn_training"):
        dag = DBDagBag().get_latest_version_of_dag(dag_id, session=session)
        print(*(link.replace(" ", "_") for link in dag.get_task("train").extra_links), end=" ")
"""
    assert parsed.python(code) == ["MLflow_run", "Why_pending"] * 2


def test_initialising_airflow_imports_little_of_the_library(installed: Installed) -> None:
    loaded = set(installed.python("import sys, airflow; print(*sys.modules)"))
    assert {"trainyard.policy", "trainyard.factory.importer"} <= loaded
    tasks = {"trainyard.factory.pipeline", "trainyard.operators", "trainyard.training"}
    slow = {"kubernetes_asyncio", "mlflow", "aiohttp"}
    assert loaded & (tasks | slow) == set()


def test_an_airflow_without_importers_runs_and_says_what_it_lacks(
    installed: Installed, tmp_path: Path
) -> None:
    # What another version of Airflow may look like to the library.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules['airflow.dag_processing.importers'] = None\n"
    )
    output = installed.run("airflow", "version", PYTHONPATH=str(tmp_path))
    assert "Trainyard: this process has no DAGs of model files (models/*.yaml)" in output
    assert output.splitlines()[-1] == "3.3.2"
