"""Teams that share a pool: they borrow what is idle and give it back, and none exceeds or sees another."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from conftest import DAG, MLFLOW_PRELUDE, NAMESPACE
from kubernetes import client
from pods import PodRecorder, if_there, output_of, scratch, scratch_pod, sync_mounts, wait_until
from queues import (
    JOB,
    QUEUE,
    check_resumed,
    gpu_job,
    making_jobs,
    outcome_of,
    running,
    training_with,
    why_waiting,
    with_a_checkpoint,
)
from trainyard.failures import Cause
from trainyard.naming import TaskIdentity
from trainyard_cli.airflow_api import Airflow
from trainyard_cli.errors import CliError

pytestmark = [pytest.mark.alone, pytest.mark.nightly]

VISION, TEXT = "ml-vision", "ml-text"
POOL, READERS, EPOCHS = "ondemand", "e2e-vision", 14
PERSON, ROLE, OTHER_DAG = "e2e-ada", "e2e-vision", "maintenance"
OWN = {VISION: "e2e-vision", TEXT: "e2e-text"}  # DAGs that are not there, and their experiments
# Calls of a team's pod by MLflow's own client; prints the result of each.
CALLS = (
    MLFLOW_PRELUDE
    + """
own, other = sys.argv[1:]

def written(name):
    found = mlflow_client.get_experiment_by_name(name)
    run = mlflow_client.search_runs([found.experiment_id], max_results=1)[0].info
    return {
        "make a run": result(lambda: mlflow_client.create_run(found.experiment_id)),
        "tag a run": result(lambda: mlflow_client.set_tag(run.run_id, "e2e", own)),
        "write an artifact": result(lambda: mlflow_client.log_text(run.run_id, "text", "e2e.txt")),
        "make a model": result(lambda: mlflow_client.create_logged_model(found.experiment_id)),
    }

mlflow.set_experiment(own)
with mlflow.start_run():
    pass
results = {"own": written(own)}
if other:
    results["other"] = written(other)
    results["make"] = result(lambda: mlflow_client.create_experiment(other + "-more"))
print(json.dumps(results))
"""
)
CLASSES = ["trainyard-training", "trainyard-spot"]
TEAMS = {
    # Of the pool's two GPUs one is vision's, and one is had by DAGs of no team.
    "vision": {
        "namespace": VISION,
        "dags": [DAG, OWN[VISION]],
        "gpus": {POOL: {"own": 1}},
        "readers": [READERS],
        "priorityClassNames": CLASSES,
        "airflowRole": ROLE,
    },
    "text": {"namespace": TEXT, "dags": [OWN[TEXT]], "gpus": {POOL: {"own": 0, "borrow": 0}}},
}


@pytest.fixture(scope="module")
def shared(
    airflow: Airflow, core: client.CoreV1Api, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    try:
        with training_with({"teams": TEAMS}, airflow, core, tmp_path_factory.mktemp("teams")) as platform:
            sync_mounts(core, "dag-processor", NAMESPACE)
            yield platform
    finally:
        for namespace in (VISION, TEXT):
            delete_namespace(core, namespace)
    # A role that no team has any more stays, and this one's users are gone.
    forget(airflow, f"roles/{ROLE}")


def delete_namespace(core: client.CoreV1Api, namespace: str) -> None:
    """Delete a namespace that a release leaves, as it has data, and the data's volumes."""
    if_there(core.delete_namespace, namespace)
    field = f"metadata.name={namespace}"
    wait_until(f"namespace {namespace} to go", lambda: not core.list_namespace(field_selector=field).items)
    for volume in core.list_persistent_volume().items:
        if volume.spec.claim_ref and volume.spec.claim_ref.namespace == namespace:
            core.delete_persistent_volume(volume.metadata.name)


def forget(airflow: Airflow, what: str) -> None:
    """Remove a role or a user, if it is there."""
    with suppress(CliError, TypeError):  # of a role the answer is null
        airflow.request("DELETE", f"/auth/fab/v1/{what}")


@pytest.fixture
def ada(airflow: Airflow, shared: dict[str, Any]) -> Iterator[Airflow]:
    """Airflow as somebody with the role of a team sees it."""
    password = secrets.token_urlsafe(16)
    name = {"username": PERSON, "first_name": "Ada", "last_name": "L", "email": f"{PERSON}@example.com"}
    body = {**name, "password": password, "roles": [{"name": ROLE}]}
    airflow.request("POST", "/auth/fab/v1/users", json=body)
    try:
        yield Airflow(airflow.base_url, PERSON, password)
    finally:
        forget(airflow, f"users/{PERSON}")


@pytest.fixture
def of_vision(core: client.CoreV1Api, shared: dict[str, Any]) -> Iterator[PodRecorder]:
    recorder = PodRecorder(core, (VISION,))
    recorder.start()
    yield recorder
    recorder.stop()


def test_a_team_gives_back_what_it_has_borrowed_and_goes_on_from_its_checkpoint(
    trigger,
    finish,
    versions,
    recorder: PodRecorder,
    of_vision: PodRecorder,
    core: client.CoreV1Api,
    airflow,
    mlflow,
    shared,
) -> None:
    # Of two nodes, so one of its GPUs is borrowed.
    run_id = trigger("borrows", nodes=2, epochs=EPOCHS, epoch_seconds=1)
    pods = with_a_checkpoint(core, of_vision, run_id, shared)
    assert {pod["metadata"]["labels"]["trainyard.dev/team"] for pod in pods} == {"vision"}
    training = shared["training"]["namespace"]
    with making_jobs(core, shared) as make:
        # Of the same priority: what counts is whose GPU it is.
        owner = make("e2e-owner", POOL, seconds=30)
        wait_until("the owner to run", lambda: running(core, training, owner), seconds=120)
        reason = why_waiting(airflow, run_id)
        expected = f"1 of 2 GPUs free in pool {POOL} for team vision; position 1 of 1; who had lent its GPUs"
        assert reason.startswith(expected)
        run = finish(run_id)

    (version,) = versions(run_id)
    pods = check_resumed(run, version.run_id, of_vision, mlflow, shared, EPOCHS)
    assert len({pod["metadata"]["labels"][JOB] for pod in pods}) == 1, "no other attempt"
    assert recorder.of_task(run_id, "train") == [], "all of its pods were in the team's namespace"


def test_a_team_that_may_not_borrow_has_no_more_than_its_own(shared: dict[str, Any]) -> None:
    outcome = outcome_of(shared, TaskIdentity("e2e-text", "exceeds", "train", -1, 1), queue_seconds=300)
    assert outcome.cause == Cause.BAD_CONFIG
    assert f"1 GPUs of pool {POOL}, of which team text may have 0 at most" in outcome.message


def test_a_team_s_pod_writes_its_own_experiments_alone(
    core: client.CoreV1Api, shared: dict[str, Any]
) -> None:
    made = written(core, shared, TEXT, "")
    assert set(made["own"].values()) == {200}
    found = written(core, shared, VISION, OWN[TEXT])
    assert set(found["own"].values()) == {200}
    assert set(found["other"].values()) == {403}
    assert found["make"] == 403
    nobody = written(core, shared, shared["training"]["namespace"], OWN[TEXT], own="e2e-nobody")
    assert set(nobody["own"].values()) == {200}
    assert set(nobody["other"].values()) == {403}


def written(
    core: client.CoreV1Api, shared: dict[str, Any], namespace: str, other: str, own: str = ""
) -> dict[str, Any]:
    """What MLflow answers to a pod in a namespace, with the volumes and the environment of training pods."""
    training, name = shared["training"], "e2e-writes"
    settings = training["pod"]
    env = {"MLFLOW_TRACKING_URI": training["trackingUri"], "HOME": "/tmp"}
    container = {
        "command": ["sleep", "600"],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *settings["extraVolumeMounts"]],
        "env": [{"name": key, "value": value} for key, value in env.items()],
    }
    volumes = [{"name": "tmp", "emptyDir": {}}, *settings["extraVolumes"]]
    with scratch(core, scratch_pod(training, name, container, volumes=volumes), namespace):
        wait_until(
            f"the pod in {namespace} to run",
            lambda: core.read_namespaced_pod(name, namespace).status.phase == "Running",
        )
        output = output_of(core, name, namespace, "python", "-c", CALLS, own or OWN[namespace], other)
    return json.loads(output.strip().splitlines()[-1])


def test_people_see_their_own_team_alone(core: client.CoreV1Api, shared: dict[str, Any]) -> None:
    reviews = client.AuthorizationV1Api(core.api_client)

    def may(verb: str, resource: str, namespace: str, group: str = "") -> bool:
        asked = {"namespace": namespace, "verb": verb, "resource": resource, "group": group}
        spec = {"user": "somebody", "groups": [READERS], "resourceAttributes": asked}
        return reviews.create_subject_access_review({"spec": spec}).status.allowed

    assert may("list", "pods", VISION)
    assert may("list", "workloads", VISION, "kueue.x-k8s.io")
    assert not may("get", "secrets", VISION)
    assert not may("create", "jobs", VISION, "batch")
    for other in (TEXT, shared["training"]["namespace"], "trainyard"):
        assert not may("list", "pods", other)


def test_a_job_stays_in_its_queue(core: client.CoreV1Api, shared: dict[str, Any]) -> None:
    batch = client.BatchV1Api(core.api_client)
    with making_jobs(core, shared, TEXT) as make:
        # The team has no GPUs, so it waits for ever.
        make("e2e-leaves", POOL)
        left = {"metadata": {"labels": {QUEUE: None}}}
        with pytest.raises(client.ApiException, match=r"set the label kueue\.x-k8s\.io/queue-name"):
            batch.patch_namespaced_job("e2e-leaves", TEXT, left)
        batch.patch_namespaced_job("e2e-leaves", TEXT, {"metadata": {"labels": {"other": "label"}}})


def test_a_job_of_a_team_has_none_but_its_priorities(core: client.CoreV1Api, shared: dict[str, Any]) -> None:
    batch = client.BatchV1Api(core.api_client)
    urgent = gpu_job(shared, "e2e-urgent", POOL, 1, 1, priorityClassName="trainyard-interactive")
    with pytest.raises(client.ApiException, match=r"teams\.vision\.priorityClassNames"):
        batch.create_namespaced_job(VISION, urgent, dry_run="All")
    batch.create_namespaced_job(TEXT, urgent, dry_run="All")
    usual = gpu_job(shared, "e2e-usual", POOL, 1, 1)
    batch.create_namespaced_job(VISION, usual, dry_run="All")
    labelled = {**usual["metadata"]["labels"], "kueue.x-k8s.io/priority-class": "urgent"}
    passing = {**usual, "metadata": {**usual["metadata"], "labels": labelled}}
    with pytest.raises(client.ApiException, match=r"teams\.vision\.priorityClassNames"):
        batch.create_namespaced_job(VISION, passing, dry_run="All")


def test_users_of_a_team_s_role_see_its_dags_alone(ada: Airflow, airflow: Airflow) -> None:
    own = [DAG, "maintenance-vision"]
    # An api-server remembers somebody's rights for half a minute.
    wait_until("the team's DAGs", lambda: [dag["dag_id"] for dag in ada.dags()] == own, seconds=180)
    assert OTHER_DAG in {dag["dag_id"] for dag in airflow.dags()}
    runs = ada.get("/api/v2/dags/~/dagRuns", {"limit": 100})["dag_runs"]
    assert {run["dag_id"] for run in runs} <= set(own)
    for path in (f"dags/{OTHER_DAG}", f"dags/{OTHER_DAG}/dagRuns", f"dagSources/{OTHER_DAG}", "assets"):
        with pytest.raises(CliError, match=r"answered 40[34] to"):
            ada.get(f"/api/v2/{path}")


def test_users_of_a_team_s_role_start_and_change_its_runs_alone(ada: Airflow, airflow: Airflow) -> None:
    wait_until("the team's DAG", lambda: DAG in {dag["dag_id"] for dag in ada.dags()}, seconds=180)
    own, other, run = f"/api/v2/dags/{DAG}", f"/api/v2/dags/{OTHER_DAG}", "e2e-by-ada"
    body = {"dag_run_id": run, "logical_date": None}
    was_paused = ada.get(own)["is_paused"]
    ada.request("PATCH", own, json={"is_paused": True})  # so the run does not start
    try:
        assert ada.request("POST", f"{own}/dagRuns", json=body)["triggering_user_name"] == PERSON
        assert ada.request("PATCH", f"{own}/dagRuns/{run}", json={"note": "mine"})["note"] == "mine"
        for method, path, what in (
            ("POST", f"{other}/dagRuns", body),
            ("PATCH", other, {"is_paused": True}),
        ):
            with pytest.raises(CliError, match=r"answered 40[34] to"):
                ada.request(method, path, json=what)
    finally:
        forget_run(airflow, f"{own}/dagRuns/{run}")
        airflow.request("PATCH", own, json={"is_paused": was_paused})


def forget_run(airflow: Airflow, path: str) -> None:
    with suppress(CliError):  # a test that failed has not made it
        airflow.request("PATCH", path, json={"state": "failed"})
        airflow.request("DELETE", path)
