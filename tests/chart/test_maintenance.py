"""The two CronJobs of the maintenance: what they run, with what, and who may start them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from render import containers, environment, find, identity, platform, pod_spec, render_chart
from test_scripts import load

DATABASE, GARBAGE = "trainyard-database-cleanup", "trainyard-mlflow-garbage-collection"
OFF: dict[str, Any] = {
    "airflow": {"databaseCleanup": {"enabled": False}},
    "mlflow": {"garbageCollection": {"enabled": False}},
}
DAY = 86_400


@pytest.mark.parametrize("name", [DATABASE, GARBAGE])
def test_they_wait_to_be_started_and_end_some_time(name: str) -> None:
    spec = find(render_chart(), "CronJob", name)["spec"]
    assert spec["suspend"] is True and spec["concurrencyPolicy"] == "Forbid"
    job = spec["jobTemplate"]["spec"]
    assert job["backoffLimit"] == 0 and job["activeDeadlineSeconds"] and job["ttlSecondsAfterFinished"]
    values = {
        "airflow": {"databaseCleanup": {"suspend": False}},
        "mlflow": {"garbageCollection": {"suspend": False}},
    }
    assert find(render_chart(values=values), "CronJob", name)["spec"]["suspend"] is False


def test_the_options_of_airflow_db_clean() -> None:
    options = {
        "tables": ["xcom", "log"],
        "batchSize": 500,
        "skipArchive": False,
        "verbose": False,
        "retentionDays": 7,
    }
    objects = render_chart(values={"airflow": {"databaseCleanup": options}})
    (container,) = containers(find(objects, "CronJob", DATABASE))
    assert container["command"][1].endswith("/scripts/clean_database.py")
    assert container["args"] == ["--batch-size=500", "--tables=xcom,log"]
    assert environment(container)["RETENTION_DAYS"] == "7"
    secrets = {key for key, value in environment(container).items() if isinstance(value, dict)}
    database = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
    assert secrets == {database, f"{database}_ASYNC"}
    assert "clean_database.py" in find(objects, "ConfigMap", "trainyard-scripts")["data"]


def test_the_garbage_collection_leaves_the_volume_to_the_server() -> None:
    objects = render_chart()
    cron_job = find(objects, "CronJob", GARBAGE)
    assert not [volume for volume in pod_spec(cron_job)["volumes"] if "persistentVolumeClaim" in volume]
    (container,) = containers(cron_job)
    server = containers(find(objects, "Deployment", "trainyard-mlflow"))[-1]
    variables = environment(container)
    assert variables["MLFLOW_TRACKING_URI"] == "http://trainyard-mlflow:5000"
    assert variables["MLFLOW_BACKEND_STORE_URI"] == environment(server)["MLFLOW_BACKEND_STORE_URI"]
    assert "collect_garbage.py" in find(objects, "ConfigMap", GARBAGE)["data"]


def test_the_triggerer_may_start_those_that_there_are() -> None:
    objects = render_chart()
    cron_jobs = {"airflowDatabase": DATABASE, "mlflowGarbage": GARBAGE}
    assert platform(objects)["maintenance"] == {"namespace": "trainyard", "cronJobs": cron_jobs}
    rule = find(objects, "Role", "trainyard-maintenance")["rules"][0]
    assert rule["resourceNames"] == sorted(cron_jobs.values())

    objects = render_chart(values={"mlflow": OFF["mlflow"]})
    assert platform(objects)["maintenance"]["cronJobs"] == {"airflowDatabase": DATABASE}
    assert find(objects, "Role", "trainyard-maintenance")["rules"][0]["resourceNames"] == [DATABASE]

    objects = render_chart(values=OFF)
    assert "maintenance" not in platform(objects)
    assert not {("Role", "trainyard-maintenance"), ("CronJob", DATABASE)} & {identity(one) for one in objects}


def write(path: Path, days: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("12345")
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def test_files_of_xcoms_go_when_no_xcom_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "charts/trainyard/charts/airflow/files"))
    script = load("charts/airflow/files/clean_database.py")
    named = write(tmp_path / "dag/run/task/a.json.gz", days=40)
    young = write(tmp_path / "dag/run/other/b.json.gz", days=0.5)
    left = write(tmp_path / "dag/gone/task/c.json.gz", days=2)
    assert script.remove_unreferenced(tmp_path, {str(named)}, dry_run=True) == (1, 5)
    assert left.exists()
    assert script.remove_unreferenced(tmp_path, {str(named)}, dry_run=False) == (1, 5)
    assert named.exists() and young.exists() and not (tmp_path / "dag/gone").exists()


def test_garbage_is_what_no_registered_version_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a real MLflow store, whose artifacts are files."""
    from mlflow import MlflowClient  # takes a second, in every process that collects this file

    folder, uri = tmp_path, f"sqlite:///{tmp_path}/mlflow.db"
    for variable in ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(variable, uri)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    script = load("charts/mlflow/files/collect_garbage.py")
    things: dict[str, str] = {}

    def train(name: str, experiment: str) -> None:
        """A run and its model, each with an artifact."""
        run = client.create_run(experiment).info.run_id
        model = client.create_logged_model(experiment, name="m", source_run_id=run)
        sample = write(folder / "sample/MLmodel", days=0)
        client.log_artifact(run, str(sample), "model")
        client.log_model_artifacts(model.model_id, str(sample.parent))
        things[f"{name} run"], things[f"{name} model"] = run, model.model_id

    def register(name: str, **version: Any) -> None:
        client.create_registered_model(name)
        client.create_model_version(name, await_creation_for=0, **version)

    (folder / "artifacts").mkdir()
    live, dead, spared = (
        client.create_experiment(name, (folder / "artifacts" / name).as_uri())
        for name in ("live", "dead", "spared")
    )
    for name, experiment in (
        ("a", live),
        ("b", live),
        ("c", live),
        ("alive", live),
        ("d", dead),
        ("e", spared),
    ):
        train(name, experiment)
    things |= {"experiment dead": dead, "experiment spared": spared}
    # By all that a version says, by its source alone, and by its model's id.
    source = client.get_logged_model(things["a model"]).artifact_location
    register("A", source=source, run_id=things["a run"], model_id=things["a model"])
    register("B", source=f"{client.get_run(things['b run']).info.artifact_uri}/model")
    register("E", source="file:///elsewhere", model_id=things["e model"])
    for name in "abc":
        client.delete_run(things[f"{name} run"])
        client.delete_logged_model(things[f"{name} model"])
    client.delete_experiment(dead)
    client.delete_experiment(spared)

    def left() -> set[str]:
        tracking = script.Tracking(uri, "file:///nowhere")
        found = set()
        for name, item in things.items():
            if name.startswith("experiment"):
                experiments = tracking.search_experiments(script.ViewType.ALL)
                found |= {name} if item in {one.experiment_id for one in experiments} else set()
            elif script.experiment_of(tracking, item):
                found.add(name)
        return found

    def collect(**environment: str) -> None:
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        script.main()

    collect(RETENTION_DAYS="1")  # nothing is old enough
    collect(RETENTION_DAYS="0", DRY_RUN="true")
    assert left() == set(things)
    collect(RETENTION_DAYS="0", DRY_RUN="false")
    # The model of b is nobody's: B was made of what its run logged.
    assert set(things) - left() == {"b model", "c run", "c model", "d run", "d model", "experiment dead"}
    assert f"run {things['a run']} is deleted, but A version 1 needs it" in capsys.readouterr().out
    artifacts = {
        str(path.relative_to(folder / "artifacts"))
        for path in (folder / "artifacts").rglob("*")
        if path.is_file()
    }
    assert not [path for path in artifacts if path.startswith("dead")]
    for name in ("a run", "a model", "b run", "e model", "alive run"):
        assert [path for path in artifacts if things[name] in path], name
    collect()  # once more: what is spared is no hindrance
