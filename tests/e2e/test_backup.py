"""Everything is lost but a backup: what was there comes back, to the byte.

Backups are on for the time of these tests.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import DAG, NAMESPACE, ROOT, Run, run_python, up
from kubernetes import client
from pods import component_of, if_there, wait_until
from trainyard_cli import chart, paths, release, toolchain
from trainyard_cli.cli import ToolProgress
from trainyard_cli.errors import CliError
from trainyard_cli.platform import Platform

pytestmark = [pytest.mark.alone, pytest.mark.nightly]

NAMESPACES = (NAMESPACE, "ml-training")
BACKUPS = "trainyard-backups"
USER = f"ada-{secrets.token_hex(4)}"
CONNECTION, NEWER = (f"e2e-{name}-{secrets.token_hex(4)}" for name in ("backup", "newer"))
# Paths and hashes of all of MLflow's artifacts.
ARTIFACTS = """
import hashlib, json, pathlib
root = pathlib.Path("/mlflow/artifacts")
files = [path for path in root.rglob("*") if path.is_file()]
digest = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
print(json.dumps({str(path.relative_to(root)): digest(path) for path in files}))
"""
# As Airflow decrypts it, with the fernet key.
PASSWORD = f"""
import json
from airflow.models import Connection
print(json.dumps(Connection.get_connection_from_secrets({CONNECTION!r}).password))
"""


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("values") / "backup.yaml"
    file.write_text("backup: {enabled: true, keep: 2, suspend: true}\n")
    return file


@pytest.fixture(scope="module", autouse=True)
def with_backups(values: Path, airflow, core: client.CoreV1Api) -> Iterator[None]:
    up("--take-ownership", "--values", values)
    yield
    for connection in (CONNECTION, NEWER):
        with suppress(CliError):  # a test that failed has not made it
            airflow.request("DELETE", f"/api/v2/connections/{connection}")
    before = datetime.now(UTC).isoformat()
    up("--take-ownership")
    airflow.wait_for_dag(DAG, parsed_after=before)
    # Helm keeps claims, and nothing else would know this one.
    if_there(core.delete_namespaced_persistent_volume_claim, BACKUPS, NAMESPACE)


@pytest.fixture(scope="module")
def own_backups() -> list[str]:
    """Names of backups of this session: one of an earlier session may need another fernet key."""
    return []


@pytest.fixture(scope="module")
def in_mlflow(core: client.CoreV1Api) -> Callable[[str], Any]:
    """Runs Python in MLflow's pod."""
    return lambda script: run_python(
        core, NAMESPACE, component_of(core, "tracking-server", NAMESPACE), "mlflow", script
    )


@pytest.fixture(scope="module")
def post(mlflow) -> Callable[..., httpx.Response]:
    """Calls MLflow's API."""

    def _call(method: str, path: str, auth: tuple[str, str] | None = None, **options: Any) -> httpx.Response:
        url = f"{mlflow.base_url}/api/2.0/{path}"
        return httpx.request(method, url, auth=auth or mlflow.auth, timeout=30, trust_env=False, **options)

    return _call


def command(name: str, *words: str, succeeds: bool = True) -> str:
    """Run a command of the checkout; returns what it printed."""
    program = [ROOT / "scripts" / name, *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL)
    printed = done.stdout + done.stderr
    assert (done.returncode == 0) is succeeds, printed
    return printed


def claims(core: client.CoreV1Api) -> dict[str, tuple[str, str]]:
    """The claims of the release but that of the backups: uid -> namespace and name."""
    return {
        claim.metadata.uid: (namespace, claim.metadata.name)
        for namespace in NAMESPACES
        for claim in core.list_namespaced_persistent_volume_claim(namespace).items
        if claim.metadata.name != BACKUPS
    }


def lose_every_volume(core: client.CoreV1Api) -> None:
    lost = claims(core)
    for namespace, name in lost.values():
        core.delete_namespaced_persistent_volume_claim(name, namespace)

    def gone() -> bool:
        left = {place for uid, place in claims(core).items() if uid in lost}
        for namespace in NAMESPACES:
            for pod in core.list_namespaced_pod(namespace).items:
                used = {
                    (namespace, volume.persistent_volume_claim.claim_name)
                    for volume in pod.spec.volumes
                    if volume.persistent_volume_claim
                }
                # Not a pod that has a new claim: its successor would share that with what still runs of it.
                if used & left:
                    if_there(core.delete_namespaced_pod, pod.metadata.name, namespace, grace_period_seconds=0)
        return not left

    wait_until("the claims to go", gone, seconds=180, every=5)


def make_claims_again(connection: Platform, values: Path) -> None:
    """As `helm upgrade` does; it does not wait, as Airflow waits for its tables."""
    release._rebind_volumes(connection.kube)
    files = [values, paths.STATE / "values.yaml"]
    options = [f"--kubeconfig={os.environ['KUBECONFIG']}", "--history-max=5"]
    chart.helm(toolchain.helm(ToolProgress()), "upgrade", files, options)


def test_without_a_backup_nothing_is_restored() -> None:
    """The claim may have backups of an earlier session: one that nobody made is named."""
    said = command("restore", "20010101-000000", "--yes", succeeds=False)
    assert "error: there is no backup" in said and "cure: " in said


def test_everything_comes_back(
    first_run: Run,
    versions,
    airflow,
    mlflow,
    post,
    in_mlflow,
    in_component,
    core: client.CoreV1Api,
    connection: Platform,
    values: Path,
    trigger,
    finish,
    own_backups: list[str],
) -> None:
    (version,) = versions(first_run.run_id)
    password = secrets.token_urlsafe(16)
    person = {"username": USER, "password": password}
    name = {"first_name": "Ada", "last_name": "L", "email": f"{USER}@example.com"}
    airflow.request("POST", "/auth/fab/v1/users", json={**person, **name, "roles": [{"name": "Viewer"}]})
    airflow.request(
        "POST",
        "/api/v2/connections",
        json={"connection_id": CONNECTION, "conn_type": "http", "password": password},
    )
    post("POST", "mlflow/users/create", json=person).raise_for_status()
    before = in_mlflow(ARTIFACTS)
    model = next(path for path in before if path.endswith("model.pth"))

    said = command("backup")
    made = said.rpartition("\nbackup ")[2].split(":")[0]
    assert f"{len(before)} artifacts" in said, said
    assert made in command("restore", "--list")
    assert "nothing was restored" in command("restore", succeeds=False)  # nobody is there to ask

    lose_every_volume(core)
    make_claims_again(connection, values)
    wait_until("MLflow to answer again", lambda: _answers(post), seconds=300, every=3)
    assert in_mlflow(ARTIFACTS) == {}
    with pytest.raises(CliError, match="HTTP 404"):
        mlflow.get("runs/get", {"run_id": version.run_id})

    said = command("restore", "--yes")
    assert f"restored: backup {made}" in said, said
    own_backups.append(made)

    assert airflow.dag_run(DAG, first_run.run_id)["state"] == "success"
    assert airflow.task_instances(DAG, first_run.run_id)
    (restored,) = versions(first_run.run_id)
    assert restored == version
    assert in_mlflow(ARTIFACTS) == before
    content = post("GET", f"mlflow-artifacts/artifacts/{model}").raise_for_status().content
    assert hashlib.sha256(content).hexdigest() == before[model]
    assert airflow.request("POST", "/auth/token", json=person)["access_token"]
    found = post("GET", "mlflow/registered-models/get", auth=(USER, password), params={"name": version.name})
    assert found.status_code == 200
    assert in_component("api-server", PASSWORD) == password
    # The volumes of datasets and checkpoints are new, and it trains.
    run = finish(trigger("after-restore"))
    assert run.state == "success"
    assert len(versions(run.run_id)) == 1


def _answers(post: Callable[..., httpx.Response]) -> bool:
    try:
        return post("GET", "mlflow/experiments/get", params={"experiment_id": "0"}).is_success
    except httpx.TransportError:
        return False


def test_a_restore_can_be_run_again_and_an_older_one_chosen(
    airflow, first_run: Run, own_backups: list[str]
) -> None:
    def connections() -> set[str]:
        found = airflow.get("/api/v2/connections", {"limit": 1000})["connections"]
        return {each["connection_id"] for each in found}

    (older,) = own_backups
    airflow.request("POST", "/api/v2/connections", json={"connection_id": NEWER, "conn_type": "http"})
    assert NEWER in connections()
    newer = command("backup").rpartition("\nbackup ")[2].split(":")[0]
    assert newer > older
    said = command("restore", older, "--yes")
    assert f"restored: backup {older}" in said, said
    assert NEWER not in connections()
    assert CONNECTION in connections()
    assert airflow.dag_run(DAG, first_run.run_id)["state"] == "success"


def test_a_damaged_backup_is_refused_and_changes_nothing(airflow, first_run: Run) -> None:
    directory = paths.SHARED_VOLUMES / "backups/backups"
    newest = max(directory.iterdir(), key=lambda each: each.name)
    dump = newest / "airflow.dump"
    content = dump.read_bytes()
    dump.write_bytes(content[:-1] + b"x")
    try:
        said = command("restore", newest.name, "--yes", succeeds=False)
    finally:
        dump.write_bytes(content)
    assert (
        f"error: backup {newest.name} is damaged" in said and "airflow.dump is not as it was written" in said
    )
    assert "cure: restore another backup" in said
    assert airflow.dag_run(DAG, first_run.run_id)["state"] == "success"
