"""Model files as DAG files: one by one, in every process of Airflow that reads DAGs."""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.utils.file import list_py_file_paths
from airflow_command import airflow

DAGS = Path(__file__).parents[3] / "dags"
GOOD = """\
description: Who leaves
data: generator://customers?rows=100&seed=1
train:
  pool: ondemand
gate:
  metric: roc_auc
  minimum: 0.7
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A DAG folder with one good model file."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/churn.yaml").write_text(GOOD)
    return tmp_path


@pytest.fixture
def load(folder: Path) -> Callable[..., BundleDagBag]:
    """Adds files to the folder, and reads it as Airflow does."""

    def _load(**files: str | bytes) -> BundleDagBag:
        for name, content in files.items():
            content = content if isinstance(content, bytes) else content.encode()
            (folder / "models" / f"{name}.yaml").write_bytes(content)
        return BundleDagBag(dag_folder=folder, bundle_path=folder, bundle_name="dags-folder")

    return _load


def test_a_file_makes_the_dag_of_its_name(folder: Path, load: Callable[..., BundleDagBag]) -> None:
    bag = load(returns=GOOD)
    assert bag.import_errors == {}
    assert set(bag.dags) == {"churn_training", "returns_training"}
    dag = bag.dags["returns_training"]
    assert dag.fileloc == str(folder / "models/returns.yaml")  # what the code tab shows
    assert dag.relative_fileloc == "models/returns.yaml"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"{GOOD}onwer: me\n", "line 8, column 1: onwer: unknown key; did you mean 'owner'?"),
        (
            GOOD.replace("ondemand", "cloud"),
            "line 4, column 3: train.pool: no GPU pool 'cloud'; choose one of",
        ),
        (GOOD.replace("  metric", "\tmetric"), "line 6, column 1: a tab"),
        ("", "line 1, column 1: the file is empty"),
        (GOOD.encode("utf-16"), "line 1, column 1: not UTF-8; save the file in that encoding"),
        (f"description: caf\xe9\n{GOOD}".encode("latin-1"), "line 1, column 1: not UTF-8"),
    ],
)
def test_a_bad_file_breaks_its_own_dag_alone(
    load: Callable[..., BundleDagBag], content: str | bytes, expected: str
) -> None:
    bag = load(bad=content)
    assert set(bag.dags) == {"churn_training"}
    ((file, message),) = bag.import_errors.items()
    assert file == "models/bad.yaml"
    assert message.startswith(f"models/bad.yaml, {expected}")


def test_two_files_of_one_dag_are_both_refused(folder: Path, load: Callable[..., BundleDagBag]) -> None:
    (folder / "models/churn.yml").write_text(GOOD)
    (folder / "team/models").mkdir(parents=True)
    (folder / "team/models/returns.yaml").write_text(GOOD)
    (folder / "digits_training.py").write_text("")
    bag = load(returns=GOOD, digits=GOOD, other=GOOD)
    assert set(bag.dags) == {"other_training"}
    place = "line 1, column 1: the DAG"
    assert bag.import_errors == {
        file: f"{file}, {place} {dag} comes from {rival} as well; rename one of the files"
        for file, dag, rival in [
            ("models/churn.yaml", "churn_training", "models/churn.yml"),
            ("models/churn.yml", "churn_training", "models/churn.yaml"),
            ("models/returns.yaml", "returns_training", "team/models/returns.yaml"),
            ("team/models/returns.yaml", "returns_training", "models/returns.yaml"),
            ("models/digits.yaml", "digits_training", "digits_training.py"),
        ]
    }


def test_other_yaml_is_no_model(folder: Path) -> None:
    (folder / "settings.yaml").write_text("airflow: dag")
    (folder / ".airflowignore").write_text("ignored/\n")
    (folder / "ignored/models").mkdir(parents=True)
    (folder / "ignored/models/ignored.yaml").write_text(GOOD)
    assert list_py_file_paths(folder) == [str(folder / "models/churn.yaml")]


def test_without_a_platform_the_error_says_what_to_set(
    load: Callable[..., BundleDagBag], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINYARD_PLATFORM", "/nowhere/platform.json")
    (message,) = load().import_errors.values()
    assert message.startswith("models/churn.yaml: cannot read the platform file /nowhere/platform.json")


def test_a_model_file_is_parsed_quickly() -> None:
    seconds = []
    for _ in range(5):
        started = time.process_time()  # not the clock's: other tests may run beside it
        bag = BundleDagBag(dag_folder=DAGS / "models/fraud.yaml", bundle_path=DAGS, bundle_name="dags-folder")
        seconds.append(time.process_time() - started)
        assert set(bag.dags) == {"fraud_training"}
    assert statistics.median(seconds) < 0.3


def test_the_dag_processor_reads_model_files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    # The real processes: a manager that lists files, and one that parses each.
    (folder / "models/bad.yaml").write_text(f"{GOOD}onwer: me\n")
    home = tmp_path_factory.mktemp("home")
    airflow(home, "db migrate", "dag-processor --num-runs 1", AIRFLOW__CORE__DAGS_FOLDER=str(folder))
    with sqlite3.connect(home / "airflow.db") as database:
        dags = database.execute("select dag_id, relative_fileloc from dag").fetchall()
        errors = database.execute("select filename, stacktrace from import_error").fetchall()
        (source,) = database.execute("select source_code from dag_code").fetchone()
    assert dags == [("churn_training", "models/churn.yaml")]
    ((file, message),) = errors
    assert file == "models/bad.yaml"
    assert message.startswith("models/bad.yaml, line 8, column 1: onwer: unknown key; did you mean 'owner'?")
    assert source == GOOD
