"""Every credential is rotated by its command while a training runs: it goes on, the old one is refused."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from conftest import DAG, NAMESPACE, ROOT, S3_PRELUDE, Run, metric_steps
from kubernetes import client
from pods import PodRecorder, component_of, output_of
from trainyard_cli import rotation
from trainyard_cli.kube import secret
from trainyard_cli.mlflow_api import Mlflow
from trainyard_cli.platform import Platform

pytestmark = [pytest.mark.alone, pytest.mark.nightly]

# It outlasts all rotations: they take about five minutes.
EPOCHS = 480
CONNECTION = "e2e_rotation"
SECRETS, LEFT = f"/api/v1/namespaces/{NAMESPACE}/secrets", "trainyard-e2e-left"
SECONDS = 900
# With another account's keys: what the old ones of the root account are worth.
WITH_KEYS = """
import boto3, botocore.exceptions
from botocore.config import Config
client = boto3.client('s3', endpoint_url={url!r}, region_name='us-east-1', aws_access_key_id={login!r},
                      aws_secret_access_key={password!r}, config=Config(s3={{'addressing_style': 'path'}}))
try:
    client.list_buckets()
    print(json.dumps(200))
except botocore.exceptions.ClientError as error:
    print(json.dumps(error.response['ResponseMetadata']['HTTPStatusCode']))
"""


@dataclass
class Rotated:
    """What was there before every credential was rotated, and the run that went on meanwhile."""

    old: dict[str, dict[str, str]]
    token: str
    run_id: str
    train_pod: dict[str, Any]


def stored(connection: Platform) -> dict[str, dict[str, str]]:
    """The keys and values of the Secrets that the release has, by NAMESPACE/NAME.

    Those of a release before, with other values, stay on the cluster, and nobody uses them.
    """
    release = rotation.Release(connection.kube, NAMESPACE, "trainyard", ())
    places = ("/".join(release.place(name)) for name in rotation.wanted(release))
    return {place: secret(connection.kube, *place.split("/")) or {} for place in places}


@pytest.fixture(scope="module")
def rotated(
    connection: Platform, trigger: Callable[..., str], recorder: PodRecorder, airflow: Any
) -> Iterator[Rotated]:
    airflow.request(
        "POST",
        "/api/v2/connections",
        json={"connection_id": CONNECTION, "conn_type": "http", "password": "kept"},
    )
    old = stored(connection)
    # As of PgBouncer, which was on and is off.
    password = old["trainyard/trainyard-postgresql"]["airflow-password"]
    made = {"name": LEFT, "labels": {"app.kubernetes.io/part-of": "trainyard"}}
    connection.kube.delete(f"{SECRETS}/{LEFT}")
    connection.kube.call("POST", SECRETS, json={"metadata": made, "stringData": {"login": f"a:{password}"}})
    login = {"username": connection.username, "password": connection.password}
    token = httpx.post(f"{airflow.base_url}/auth/token", json=login, trust_env=False).json()["access_token"]
    run_id = trigger("rotation", epochs=EPOCHS, epoch_seconds=1)
    pod = recorder.wait_for_running(run_id)
    assert recorder.running(run_id) == [pod]
    started = time.monotonic()
    for credential in rotation.CREDENTIALS:
        command = [ROOT / "scripts/rotate", credential]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{credential}: rotated" in done.stdout
    print(f"all rotations: {time.monotonic() - started:.0f} s")
    yield Rotated(old, token, run_id, pod)
    airflow.request("DELETE", f"/api/v2/connections/{CONNECTION}")


def test_the_training_goes_on(
    rotated: Rotated, recorder: PodRecorder, finish: Callable[..., Run], versions, mlflow: Mlflow
) -> None:
    """It was never restarted, and no epoch is missing in MLflow, whose password changed under it."""
    assert phase(recorder, rotated) == "Running", "the rotations outlasted the training"
    run = finish(rotated.run_id)
    assert run.state == "success"
    assert {name: task["try_number"] for name, task in run.tasks.items() if task["try_number"] > 1} == {}
    assert len(recorder.of_task(rotated.run_id, "train")) == 1
    (version,) = versions(rotated.run_id)
    assert metric_steps(mlflow, version.run_id, "val_f1_macro") == list(range(1, EPOCHS + 1))


def test_what_has_no_use_now_and_an_old_value_is_gone(rotated: Rotated, connection: Platform) -> None:
    """The bootstrap Job would leave it as it is, when it is wanted again."""
    assert connection.kube.find(f"{SECRETS}/{LEFT}") is None


def phase(recorder: PodRecorder, rotated: Rotated) -> str:
    return recorder.pods[rotated.train_pod["metadata"]["uid"]]["status"]["phase"]


def test_every_secret_has_another_value(rotated: Rotated, connection: Platform) -> None:
    new = stored(connection)
    same = {
        (name, key)
        for name, keys in rotated.old.items()
        for key, value in keys.items()
        if new[name][key] == value and key != "username"
    }
    # Airflow's first user, whose password is Airflow's own matter, and the name of an account.
    assert same == {
        ("trainyard/trainyard-admin", "password"),
        ("ml-training/trainyard-versitygw", "access-key"),
    }


def test_the_database_refuses_the_old_passwords(rotated: Rotated, core: client.CoreV1Api) -> None:
    pod = component_of(core, "database", NAMESPACE)
    for role in ("airflow", "mlflow", "postgres"):
        password = rotated.old["trainyard/trainyard-postgresql"][f"{role}-password"]
        url = f"postgresql://{role}:{password}@trainyard-postgresql/{role}"
        with pytest.raises(AssertionError, match="password authentication failed"):
            output_of(core, pod, NAMESPACE, "psql", url, "--command=SELECT 1")


def test_the_old_token_is_refused(rotated: Rotated, airflow: Any) -> None:
    url = f"{airflow.base_url}/api/v2/dags/{DAG}"
    headers = {"Authorization": f"Bearer {rotated.token}"}
    assert httpx.get(url, headers=headers, trust_env=False).status_code in (401, 403)


def test_what_was_encrypted_is_read_with_the_new_key_alone(
    rotated: Rotated, in_component: Callable[[str, str], Any], connection: Platform
) -> None:
    old = rotated.old["trainyard/trainyard-fernet-key"]["fernet-key"]
    new = stored(connection)["trainyard/trainyard-fernet-key"]["fernet-key"]
    assert "," not in new and new != old
    script = (
        "import json\n"
        "from airflow.models import Connection\n"
        "from airflow.utils.session import create_session\n"
        "with create_session() as session:\n"
        f"    found = session.query(Connection).filter_by(conn_id='{CONNECTION}').one()\n"
        "    print(json.dumps(found.get_password()))\n"
    )
    assert in_component("api-server", script) == "kept"


def test_mlflow_refuses_the_old_passwords(rotated: Rotated, mlflow: Mlflow) -> None:
    for account in ("admin", "trainer", "promoter", "serving"):
        old = rotated.old[f"trainyard/trainyard-mlflow-login-{account}"]
        url = f"{mlflow.base_url}/api/2.0/mlflow/experiments/get-by-name"
        auth = (old["username"], old["password"])
        answer = httpx.get(url, params={"experiment_name": DAG}, auth=auth, trust_env=False)
        assert answer.status_code == 401, account


def test_the_object_store_refuses_the_old_keys(
    rotated: Rotated, in_component: Callable[[str, str], Any]
) -> None:
    old = json.loads(rotated.old["trainyard/trainyard-s3-connection"]["connection"])
    script = WITH_KEYS.format(url=old["extra"]["endpoint_url"], login=old["login"], password=old["password"])
    assert in_component("api-server", S3_PRELUDE + script) in (401, 403)
    assert in_component("api-server", S3_PRELUDE + "print(json.dumps(len(hook.conn.list_buckets())))")
