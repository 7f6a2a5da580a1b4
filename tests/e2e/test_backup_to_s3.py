"""Backups in a bucket of another place than the release: one is made, listed and restored from there.

Backups are on for the time of these tests. What comes back is tests/e2e/test_backup.py's.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from conftest import NAMESPACE, released_with
from kubernetes import client
from local_images import built_and_loaded
from pods import if_there, scratch, wait_until
from test_backup import command
from trainyard_cli.airflow_api import Airflow
from trainyard_cli.errors import CliError

pytestmark = [pytest.mark.alone, pytest.mark.nightly]

NAME, PORT, BUCKET = "e2e-bucket", 7070, "backups"
OLDER, NEWER = (f"e2e-{name}-{secrets.token_hex(4)}" for name in ("older", "newer"))


@pytest.fixture(scope="module")
def bucket(core: client.CoreV1Api) -> Iterator[dict[str, Any]]:
    """An object store in a namespace of its own; the values of backup for it."""
    keys = {"AWS_ACCESS_KEY_ID": "backup", "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(16)}
    body = {"metadata": {"name": NAME}, "stringData": {**keys, "AWS_REGION": "us-east-1"}}
    image = built_and_loaded("versitygw")
    with scratch(core, {"metadata": {"name": NAME}}):
        service = {"selector": {"app": NAME}, "ports": [{"port": PORT, "targetPort": PORT}]}
        core.create_namespaced_service(NAME, {"metadata": {"name": NAME}, "spec": service})
        core.create_namespaced_pod(NAME, _pod(image, keys))
        core.create_namespaced_secret(NAMESPACE, body)
        try:
            wait_until("the object store", lambda: _is_ready(core))
            address = f"http://{NAME}.{NAME}.svc.cluster.local:{PORT}"
            yield {
                "uri": f"s3://{BUCKET}/e2e",
                "env": [{"name": "AWS_ENDPOINT_URL", "value": address}],
                "envFrom": [{"secretRef": {"name": NAME}}],
            }
        finally:
            if_there(core.delete_namespaced_secret, NAME, NAMESPACE)


def _pod(image: str, keys: dict[str, str]) -> dict[str, Any]:
    start = f"mkdir /buckets/{BUCKET} && exec versitygw --port=:{PORT} --health=/health posix /buckets"
    root = {
        "ROOT_ACCESS_KEY_ID": keys["AWS_ACCESS_KEY_ID"],
        "ROOT_SECRET_ACCESS_KEY": keys["AWS_SECRET_ACCESS_KEY"],
    }
    container = {
        "name": NAME,
        "image": image,
        "command": ["sh", "-c", start],
        "env": [{"name": name, "value": value} for name, value in root.items()],
        "readinessProbe": {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "buckets", "mountPath": "/buckets"}],
    }
    return {
        "metadata": {"name": NAME, "labels": {"app": NAME}},
        "spec": {
            "nodeSelector": {"trainyard.dev/role": "cpu"},
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsUser": 50000, "runAsGroup": 50000, "fsGroup": 50000},
            "containers": [container],
            "volumes": [{"name": "buckets", "emptyDir": {}}],
        },
    }


def _is_ready(core: client.CoreV1Api) -> bool:
    statuses = core.read_namespaced_pod(NAME, NAME).status.container_statuses or []
    return bool(statuses) and all(status.ready for status in statuses)


@pytest.fixture(scope="module", autouse=True)
def with_backups(
    bucket: dict[str, Any], airflow: Airflow, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    values = {"backup": {"enabled": True, "suspend": True, **bucket}}
    with released_with(values, airflow, tmp_path_factory.mktemp("backup")):
        yield
        for connection in (OLDER, NEWER):
            with suppress(CliError):  # a test that failed has not made it
                airflow.request("DELETE", f"/api/v2/connections/{connection}")


def test_a_backup_in_a_bucket_is_restored(airflow: Airflow, first_run: Any) -> None:
    def connections() -> set[str]:
        found = airflow.get("/api/v2/connections", {"limit": 1000})["connections"]
        return {each["connection_id"] for each in found}

    assert first_run.state == "success"  # there are artifacts
    airflow.request("POST", "/api/v2/connections", json={"connection_id": OLDER, "conn_type": "http"})
    said = command("backup")
    made = said.rpartition("\nbackup ")[2].split(":")[0]
    assert made in command("restore", "--list")
    airflow.request("POST", "/api/v2/connections", json={"connection_id": NEWER, "conn_type": "http"})
    said = command("restore", made, "--yes")
    assert f"restored: backup {made}" in said, said
    assert {OLDER, NEWER} & connections() == {OLDER}
