"""What is removed on the cluster, after a run and each week, and what a registered model keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from conftest import DAG, NAMESPACE, Run, wait_for_log
from kubernetes import client
from pods import component_of, output_of, scratch, scratch_pod, wait_until
from trainyard_cli.errors import CliError

POD = "scratch-maintenance"
# Whole checkpoints of the first two epochs: a file, and a manifest with its hash.
CHECKPOINTS = """
import hashlib, json, pathlib, sys
for epoch in (1, 2):
    directory = pathlib.Path(sys.argv[1], f"epoch-{epoch:06d}-batch-000000")
    directory.mkdir(parents=True)
    (directory / "__0_0.distcp").write_bytes(b"weights")
    files = {"__0_0.distcp": {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}}
    (directory / "manifest.json").write_text(json.dumps({"config": {}, "files": files}))
"""
# Marks deleted MLflow runs as deleted in 1970.
BACK_DATE = """
import os, sys
from sqlalchemy import create_engine, text
update = text("UPDATE runs SET deleted_time = 0 WHERE run_uuid = :run AND lifecycle_stage = 'deleted'")
with create_engine(os.environ["MLFLOW_BACKEND_STORE_URI"]).begin() as database:
    for run in sys.argv[1:]:
        assert database.execute(update, {"run": run}).rowcount == 1, run
"""


@pytest.fixture(scope="module")
def volume(core: client.CoreV1Api, platform: dict[str, Any]) -> Iterator[Callable[..., str]]:
    """Runs a command in a pod that has the checkpoints volume as a training pod has it."""
    training = platform["training"]
    namespace, mount = training["namespace"], training["volumes"]["checkpoints"]
    container = {
        "command": ["sleep", "3600"],
        "volumeMounts": [{"name": "checkpoints", "mountPath": mount["mountPath"]}],
    }
    volumes = [{"name": "checkpoints", "persistentVolumeClaim": {"claimName": mount["claimName"]}}]

    def running() -> bool:
        return core.read_namespaced_pod(POD, namespace).status.phase == "Running"

    def command(*arguments: str) -> str:
        return output_of(core, POD, namespace, *arguments)

    with scratch(core, scratch_pod(training, POD, container, volumes=volumes), namespace):
        wait_until("the scratch pod to run", running, seconds=120)
        yield command


@pytest.fixture(scope="module")
def post(mlflow) -> Callable[..., dict[str, Any]]:
    """Calls MLflow's API."""

    def _post(path: str, method: str = "POST", **body: Any) -> dict[str, Any]:
        url = f"{mlflow.base_url}/api/2.0/mlflow/{path}"
        response = httpx.request(method, url, json=body, auth=mlflow.auth, timeout=30, trust_env=False)
        response.raise_for_status()
        return response.json()

    return _post


@pytest.fixture(scope="module")
def back_date(core: client.CoreV1Api) -> Callable[..., None]:
    """Makes deleted runs old enough for the garbage collection, which then leaves what others deleted."""

    def _back_date(*run_ids: str) -> None:
        server = component_of(core, "tracking-server", NAMESPACE)
        output_of(core, server, NAMESPACE, "python", "-c", BACK_DATE, *run_ids, container="mlflow")

    return _back_date


def left(volume: Callable[..., str], run_key: str) -> list[str]:
    """The files of a run key."""
    return volume("find", f"/checkpoints/{run_key}", "-type", "f").split()


def is_there(volume: Callable[..., str], run_key: str) -> bool:
    return run_key in volume("ls", "/checkpoints").split()


def test_a_finished_run_leaves_no_checkpoints(first_run: Run, volume, airflow) -> None:
    assert first_run.tasks["clean_up"]["state"] == "success"
    assert airflow.xcom(DAG, first_run.run_id, "clean_up", "removed") == 1
    assert not is_there(volume, f"{DAG}__{first_run.run_id}")


def test_a_failed_run_stays_failed_and_keeps_what_it_resumes_from(
    trigger, finish, volume, model_name: str
) -> None:
    run_key = f"{DAG}__unclean-{model_name}"
    volume("python3", "-c", CHECKPOINTS, f"/checkpoints/{run_key}")
    run = finish(trigger("unclean", dataset="file:///data/no-such-directory/digits.csv"))
    assert run.state == "failed"
    assert run.tasks["clean_up"]["state"] == "success"
    assert {file.split("/")[3] for file in left(volume, run_key)} == {"epoch-000002-batch-000000"}
    volume("rm", "-r", f"/checkpoints/{run_key}")


def test_maintenance_removes_what_is_old_and_not_what_a_registered_model_needs(
    first_run: Run, trigger, finish, versions, volume, post, back_date, mlflow, airflow, model_name: str
) -> None:
    registered, unknown, young = (
        f"{DAG}__{first_run.run_id}",
        f"e2e-old-{model_name}",
        f"e2e-young-{model_name}",
    )
    for run_key in (registered, unknown, young):
        volume("mkdir", "-p", f"/checkpoints/{run_key}/epoch-000001-batch-000000")
        volume("touch", f"/checkpoints/{run_key}/epoch-000001-batch-000000/manifest.json")
    for run_key in (registered, unknown):
        file = f"/checkpoints/{run_key}/epoch-000001-batch-000000/manifest.json"
        volume("touch", "-d", "40 days ago", file, f"/checkpoints/{run_key}")

    (version,) = versions(first_run.run_id)
    experiment = mlflow.get("runs/get", {"run_id": version.run_id})["run"]["info"]["experiment_id"]
    needed, unneeded = (
        post("runs/create", experiment_id=experiment, run_name=name)["run"]["info"]
        for name in ("needed", "unneeded")
    )
    name = f"{model_name}-gc"
    post("registered-models/create", name=name)
    post(
        "model-versions/create",
        name=name,
        source=f"{needed['artifact_uri']}/model",
        run_id=needed["run_id"],
    )
    for run in (needed, unneeded):
        post("runs/delete", run_id=run["run_id"])
    back_date(needed["run_id"], unneeded["run_id"])

    run_id = trigger("maintenance", dag="maintenance", older_than_days=30)
    run = finish(run_id, dag="maintenance")
    states = {task_id: task["state"] for task_id, task in run.tasks.items()}
    assert states == dict.fromkeys(("checkpoints", "airflow_database", "mlflow_garbage"), "success")

    assert is_there(volume, registered) and is_there(volume, young)
    assert not is_there(volume, unknown)
    assert mlflow.get("runs/get", {"run_id": needed["run_id"]})["run"]["info"]["lifecycle_stage"] == "deleted"
    with pytest.raises(CliError, match="HTTP 404"):
        mlflow.get("runs/get", {"run_id": unneeded["run_id"]})
    kept = (needed["run_id"], f"{name} version 1 needs it")
    wait_for_log(airflow, "maintenance", run_id, "mlflow_garbage", *kept)

    post("registered-models/delete", method="DELETE", name=name)
    volume("rm", "-r", f"/checkpoints/{registered}", f"/checkpoints/{young}")


def test_the_jobs_are_those_of_the_cron_jobs(airflow, trigger, finish, core: client.CoreV1Api) -> None:
    run_id = trigger("dry", dag="maintenance", dry_run=True)
    assert finish(run_id, dag="maintenance").state == "success"
    batch = client.BatchV1Api(core.api_client)
    for task_id, owner in (
        ("airflow_database", "trainyard-database-cleanup"),
        ("mlflow_garbage", "trainyard-mlflow-garbage-collection"),
    ):
        name = airflow.xcom("maintenance", run_id, task_id, "job")
        job = batch.read_namespaced_job(name, NAMESPACE)
        assert job.status.succeeded == 1
        assert [one.name for one in job.metadata.owner_references] == [owner]
        variables = {one.name: one.value for one in job.spec.template.spec.containers[0].env}
        assert variables["DRY_RUN"] == "true"
        assert int(variables["RETENTION_DAYS"]) >= 30
