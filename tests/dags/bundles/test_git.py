"""The bundle of published commits, with the real publisher, Airflow's DagBag and its dag-processor."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import receiver
from airflow.dag_processing.bundles import base
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.utils.file import list_py_file_paths
from airflow_command import airflow
from published import PublishedRepository
from trainyard.bundles.git import PublishedGitBundle

ROOT = Path(__file__).parents[3]
DAG = """
from airflow.sdk import dag, task
from helper import NAME

@dag(dag_id="team", tags=[NAME])
def team():
    @task
    def say():
        print(NAME)
    say()

team()
"""
BROKEN = "from airflow.sdk import dag\nimport nothing_of_it"
GONE = "0" * 40


@pytest.fixture
def repository(tmp_path: Path) -> PublishedRepository:
    return PublishedRepository(tmp_path)


@pytest.fixture
def bundle(
    repository: PublishedRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., PublishedGitBundle]:
    """A bundle of the repository as Airflow makes it."""
    monkeypatch.setattr(base, "get_bundle_storage_root_path", lambda: tmp_path / "storage")

    def _bundle(version: str | None = None, **options: Any) -> PublishedGitBundle:
        return PublishedGitBundle(
            name="team", version=version, published=str(repository.published), subdir="dags", **options
        )

    return _bundle


@pytest.fixture
def in_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_IS_K8S_EXECUTOR_POD", "True")


def test_a_run_keeps_its_commit_while_another_one_is_published(
    repository: PublishedRepository, bundle: Callable[..., PublishedGitBundle]
) -> None:
    first = repository.push(team=DAG, helper="NAME = 'first'")
    newest = bundle()
    newest.initialize()
    assert newest.get_current_version() == base.BundleVersion(first)
    second = repository.push(helper="NAME = 'second'")
    # The dag-processor goes on to it when it says so, and not before.
    assert newest.get_current_version() == base.BundleVersion(first)
    assert "first" in (newest.path / "helper.py").read_text()
    newest.refresh()
    assert newest.get_current_version() == base.BundleVersion(second)
    assert "second" in (newest.path / "helper.py").read_text()
    of_the_run = bundle(first)
    of_the_run.initialize()
    assert of_the_run.get_current_version() == base.BundleVersion(first)
    assert "first" in (of_the_run.path / "helper.py").read_text()


def test_modules_and_model_files_of_the_repository_are_read(
    repository: PublishedRepository,
    bundle: Callable[..., PublishedGitBundle],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = (ROOT / "dags/models/churn.yaml").read_text()
    repository.push(team=DAG, helper="NAME = 'first'", models__returns=model, broken=BROKEN)
    newest = bundle()
    newest.initialize()
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    files = {str(Path(file).relative_to(newest.path)) for file in list_py_file_paths(newest.path)}
    assert {"team.py", "models/returns.yaml"} <= files
    bag = BundleDagBag(dag_folder=newest.path, bundle_path=newest.path, bundle_name="team")
    assert {id: dag.relative_fileloc for id, dag in bag.dags.items()} == {
        "team": "team.py",
        "returns_training": "models/returns.yaml",
    }
    assert [Path(file).name for file in bag.import_errors] == ["broken.py"]


def test_a_task_whose_commit_is_gone_says_what_to_do(
    repository: PublishedRepository, bundle: Callable[..., PublishedGitBundle], in_worker: None
) -> None:
    repository.push(team=DAG)
    with pytest.raises(RuntimeError, match=f"commit {GONE} of bundle team.*keepDays.*latest version"):
        bundle(GONE).initialize()


def test_a_callback_whose_commit_is_gone_takes_the_newest(
    repository: PublishedRepository, bundle: Callable[..., PublishedGitBundle]
) -> None:
    commit = repository.push(team=DAG)
    of_callback = bundle(GONE)
    of_callback.initialize()
    assert of_callback.get_current_version() == base.BundleVersion(commit)
    assert (of_callback.path / "team.py").is_file()


def test_nothing_published_is_an_error_with_the_cause(
    repository: PublishedRepository, bundle: Callable[..., PublishedGitBundle]
) -> None:
    with pytest.raises(RuntimeError, match="no commit of bundle team has been published: the DAG publisher"):
        bundle().initialize()
    assert not repository.publisher.publish()
    with pytest.raises(RuntimeError, match="couldn't find remote ref main"):
        bundle().initialize()


def test_a_bundle_of_one_commit_is_not_refreshed(
    repository: PublishedRepository, bundle: Callable[..., PublishedGitBundle]
) -> None:
    of_the_run = bundle(repository.push(team=DAG))
    of_the_run.initialize()
    with pytest.raises(RuntimeError, match="cannot be refreshed"):
        of_the_run.refresh()


def test_one_alert_for_an_outage_and_one_for_its_end(
    repository: PublishedRepository, bundle: Callable[..., PublishedGitBundle], secret: Path
) -> None:
    def age(seconds: int, error: str) -> None:
        file = repository.published / "state.json"
        state = json.loads(file.read_text())
        state |= {"succeeded": (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(), "error": error}
        file.write_text(json.dumps(state))

    commit = repository.push(team=DAG)
    newest = bundle(alert_after=600)
    newest.initialize()
    with receiver.listening() as got:
        (secret / "webhook-url").write_text(got.url)
        for seconds in (590, 610, 700, 0, 10):
            age(seconds, "git fetch: Connection refused" if seconds else "")
            newest.refresh()
        assert [(one["severity"], one["key"]) for one in got.got] == [
            ("warning", "dag-bundle/team"),
            ("info", "dag-bundle/team"),
        ]
        assert "git fetch: Connection refused" in got.got[0]["text"] and commit in got.got[0]["text"]
        # A publisher that is gone reports nothing: that is an outage as well.
        age(700, "")
        newest.refresh()
        assert "does not report" in got.got[2]["text"]
    assert (newest.path / "team.py").is_file()


def test_the_dag_processor_stores_the_commit_of_each_dag(
    repository: PublishedRepository, tmp_path: Path
) -> None:
    """The real processes, twice: a commit lands between."""
    options = {"published": str(repository.published), "subdir": "dags"}
    options["view_url_template"] = "https://git.example.com/team/commit/{version}"
    configured = [
        {"name": "team", "classpath": "trainyard.bundles.git.PublishedGitBundle", "kwargs": options}
    ]
    settings = {
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(configured),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(tmp_path / "bundles"),
    }

    def stored() -> tuple[Any, Any]:
        with sqlite3.connect(tmp_path / "airflow.db") as database:
            dags = database.execute("select dag_id, bundle_name, bundle_version, relative_fileloc from dag")
            errors = database.execute("select bundle_name, filename from import_error")
            return dags.fetchall(), errors.fetchall()

    first = repository.push(team=DAG, helper="NAME = 'first'")
    airflow(tmp_path, "db migrate", "dag-processor --num-runs 1", **settings)
    assert stored() == ([("team", "team", first, "team.py")], [])
    second = repository.push(helper="NAME = 'second'", broken=BROKEN)
    listings = [f"dags list --output json {files}" for files in ("", "--local --bundle-name team")]
    printed = airflow(tmp_path, "dag-processor --num-runs 1", *listings, **settings)
    assert stored() == ([("team", "team", second, "team.py")], [("team", "broken.py")])
    listed = [json.loads(line) for line in printed if line.startswith('[{"dag_id"')]
    assert [[(one["dag_id"], one["bundle_version"]) for one in each] for each in listed] == [
        [("team", second)],
        [("team", second)],
    ]
