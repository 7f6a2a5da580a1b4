"""DAGs from git and from an image: a push becomes runnable, and a run keeps the DAGs that it started with.

One release has both: a git bundle, and a DAG image with one DAG more than the checkout's.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import NAMESPACE, copy_of_checkout, up
from git_server import GitServer, git_server, new_key
from kubernetes import client
from pods import PodRecorder, component_of, if_there, log_of, wait_until
from trainyard_cli.airflow_api import Airflow

pytestmark = pytest.mark.alone

SCRATCH = "scratch-git"
BUNDLE, KEY_SECRET, POOL = "e2e", "e2e-git-key", "e2e-dags"
PUBLISHER = f"dag-publisher-{BUNDLE}"
# The second task waits for a slot of a pool that has none until a test gives it one.
DAG = """
from airflow.sdk import dag, task
{imports}

@dag(dag_id="{dag_id}", tags=["{version}"])
def two_tasks():
    @task
    def first():
        return {value}

    @task(pool="e2e-dags")
    def second(before):
        return {value}

    second(first())

two_tasks()
"""
# Airflow keeps the versions, runs and errors of a DAG that is gone: each session has DAGs of its own.
SESSION = time.strftime("%Y%m%d_%H%M%S")
GIT_DAG, IMAGE_DAG = f"e2e_from_git_{SESSION}", f"e2e_from_image_{SESSION}"


def from_git(version: str) -> dict[str, str]:
    """The files of a commit; the DAG takes its answer from a module beside it."""
    dag = DAG.format(imports="from e2e_helper import ANSWER", dag_id=GIT_DAG, version=version, value="ANSWER")
    return {GIT_DAG: dag, "e2e_helper": f"ANSWER = {version!r}"}


def from_image(version: str) -> str:
    return DAG.format(imports="", dag_id=IMAGE_DAG, version=version, value=repr(version))


class Checkout:
    """A copy of the checkout with one DAG more, and values that take a git bundle as well."""

    def __init__(self, directory: Path, values: dict[str, Any]) -> None:
        self.path = copy_of_checkout(directory)
        self.values = directory / "values.yaml"
        self.values.write_text(json.dumps(values))

    def release(self, version: str) -> None:
        (self.path / f"dags/{IMAGE_DAG}.py").write_text(from_image(version))
        up("--values", self.values, checkout=self.path)


@pytest.fixture(scope="module")
def server(core: client.CoreV1Api) -> Iterator[GitServer]:
    with git_server(core, SCRATCH) as running:
        running.push(**from_git("git-1"))
        yield running


@contextmanager
def released(
    core: client.CoreV1Api, airflow: Airflow, server: GitServer, directory: Path, *, slots: int = 0
) -> Iterator[Checkout]:
    """Both ways at once; afterwards the release is the checkout's again."""
    if_there(core.delete_namespaced_secret, KEY_SECRET, NAMESPACE)  # of a session that was killed
    _delete_pool(airflow)
    body = {"metadata": {"name": KEY_SECRET}, "stringData": {"gitSshKey": server.deploy.private}}
    core.create_namespaced_secret(NAMESPACE, body)
    airflow.request("POST", "/api/v2/pools", json={"name": POOL, "slots": slots, "include_deferred": False})
    bundle = {
        **{"repo": server.url, "ref": "main", "subPath": "dags", "period": 1},
        **{"sshKeySecret": KEY_SECRET, "knownHosts": server.known_hosts},
    }
    values = {"airflow": {"dags": {"git": {"alertAfterMinutes": 1, "bundles": {BUNDLE: bundle}}}}}
    try:
        checkout = Checkout(directory, values)
        checkout.release("image-1")
        yield checkout
    finally:
        up()
        core.delete_namespaced_secret(KEY_SECRET, NAMESPACE)
        _delete_pool(airflow)
        for dag in airflow.dags():
            if dag["dag_id"] in (GIT_DAG, IMAGE_DAG):
                _delete(airflow, f"dags/{dag['dag_id']}")


def _delete_pool(airflow: Airflow) -> None:
    if POOL in {pool["name"] for pool in airflow.get("/api/v2/pools")["pools"]}:
        _delete(airflow, f"pools/{POOL}")


def _delete(airflow: Airflow, path: str) -> None:
    with contextlib.suppress(ValueError):  # the answer has no content
        airflow.request("DELETE", f"/api/v2/{path}")


@pytest.fixture(scope="module")
def release(
    core: client.CoreV1Api, airflow: Airflow, server: GitServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Checkout]:
    with released(core, airflow, server, tmp_path_factory.mktemp("checkout")) as checkout:
        yield checkout


@pytest.fixture
def runnable(airflow: Airflow) -> Callable[[str, str], dict[str, Any]]:
    """Waits until a DAG has a tag, which names its version."""

    def _runnable(dag_id: str, version: str) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            dags = [dag for dag in airflow.dags() if dag["dag_id"] == dag_id]
            return next((dag for dag in dags if version in {tag["name"] for tag in dag["tags"]}), None)

        return wait_until(f"{dag_id} of {version}", found, seconds=120, every=0.5)

    return _runnable


@dataclass(frozen=True)
class TwoTasks:
    """A run whose first task has ended; `answers` ends the second one, and returns what both answered."""

    run_id: str
    answers: Callable[[], list[str]]


@pytest.fixture
def run(
    airflow: Airflow, recorder: PodRecorder, trigger: Callable[..., str]
) -> Iterator[Callable[[str, str], TwoTasks]]:
    """Starts a run and waits for its first task."""

    def _run(dag_id: str, name: str) -> TwoTasks:
        run_id = trigger(name, dag_id)

        def succeeded(task_id: str) -> bool:
            states = {task["task_id"]: task["state"] for task in airflow.task_instances(dag_id, run_id)}
            assert states.get(task_id) != "failed", recorder.of_task(run_id, task_id)
            return states.get(task_id) == "success"

        wait_until(f"first of {run_id}", lambda: succeeded("first"), seconds=180, every=0.5)

        def answers() -> list[str]:
            slots(airflow, 5)
            wait_until(f"second of {run_id}", lambda: succeeded("second"), seconds=180, every=0.5)
            return [airflow.xcom(dag_id, run_id, task, "return_value") for task in ("first", "second")]

        return TwoTasks(run_id, answers)

    slots(airflow, 0)
    yield _run
    slots(airflow, 0)


def slots(airflow: Airflow, number: int) -> None:
    body = {"pool": POOL, "slots": number, "include_deferred": False}
    airflow.request("PATCH", f"/api/v2/pools/{POOL}", json=body)


def pods(core: client.CoreV1Api) -> dict[str, str]:
    """The pods that stay, by component."""
    found = core.list_namespaced_pod(NAMESPACE).items
    return {
        pod.metadata.labels["app.kubernetes.io/component"]: pod.metadata.uid
        for pod in found
        if any(owner.kind in ("ReplicaSet", "StatefulSet") for owner in pod.metadata.owner_references or [])
        and not pod.metadata.deletion_timestamp
    }


def test_a_push_is_runnable_and_a_run_keeps_its_commit(
    airflow: Airflow,
    recorder: PodRecorder,
    server: GitServer,
    release: Checkout,
    runnable: Callable,
    run: Callable,
) -> None:
    assert runnable(GIT_DAG, "git-1")["bundle_name"] == BUNDLE
    old = run(GIT_DAG, "git-1")
    commit = server.push(**from_git("git-2"))
    assert runnable(GIT_DAG, "git-2")["bundle_version"] == commit
    new = run(GIT_DAG, "git-2")
    assert old.answers() == ["git-1", "git-1"]
    assert new.answers() == ["git-2", "git-2"]
    versions = [airflow.dag_run(GIT_DAG, each.run_id)["bundle_version"] for each in (old, new)]
    assert versions[0] != versions[1] == commit
    # A worker pod reads the commit: no key, no git of its own, nothing that it could write to.
    (worker,) = recorder.of_task(new.run_id, "second")
    assert "secret" not in json.dumps(worker["spec"]["volumes"]).lower()
    (mount,) = [m for m in worker["spec"]["containers"][0]["volumeMounts"] if m["name"] == "git-dags"]
    assert mount["readOnly"] is True


def test_a_dag_that_does_not_parse_is_an_import_error_of_its_own(
    airflow: Airflow, server: GitServer, release: Checkout, runnable: Callable
) -> None:
    server.push(e2e_broken="from airflow.sdk import dag\nimport nothing_of_it\n", **from_git("git-3"))
    runnable(GIT_DAG, "git-3")

    def errors() -> list[tuple[str, str]]:
        found = airflow.get("/api/v2/importErrors")["import_errors"]
        return [(error["bundle_name"], error["filename"]) for error in found]

    wait_until("the import error", errors, seconds=60, every=0.5)
    assert errors() == [(BUNDLE, "e2e_broken.py")]
    server.push(e2e_broken="# airflow dag: repaired\n")
    wait_until("the import error to go", lambda: not errors(), seconds=90, every=0.5)


@pytest.mark.nightly
def test_without_the_git_server_the_last_commit_goes_on_and_an_alert_is_sent(
    core: client.CoreV1Api, server: GitServer, release: Checkout, runnable: Callable, run: Callable
) -> None:
    def dag_processor_said(text: str) -> bool:
        return text in log_of(core, component_of(core, "dag-processor", NAMESPACE), NAMESPACE)

    server.push(**from_git("git-4"))
    runnable(GIT_DAG, "git-4")
    server.reachable(False)
    try:
        assert run(GIT_DAG, "git-4").answers() == ["git-4", "git-4"]
        alert = f"DAG bundle {BUNDLE} does not follow its git repository"
        wait_until("the alert", lambda: dag_processor_said(alert), seconds=120)
    finally:
        server.reachable(True)
    assert "git fetch: " in log_of(core, component_of(core, PUBLISHER, NAMESPACE), NAMESPACE)
    server.push(**from_git("git-5"))
    runnable(GIT_DAG, "git-5")
    wait_until("the end of it", lambda: dag_processor_said("follows its git repository again"), seconds=30)


def test_a_wrong_host_key_is_refused(
    core: client.CoreV1Api, airflow: Airflow, server: GitServer, release: Checkout, runnable: Callable
) -> None:
    wrong = server.known_hosts.replace(server.host.public, new_key().public)
    server.push(**from_git("git-6"))
    runnable(GIT_DAG, "git-6")
    try:
        _pin(core, wrong)

        def refused() -> bool:
            return "Host key verification failed" in log_of(
                core, component_of(core, PUBLISHER, NAMESPACE), NAMESPACE
            )

        wait_until("the refusal", refused, seconds=60)
        commit = server.push(**from_git("git-7"))
        (dag,) = [one for one in airflow.dags() if one["dag_id"] == GIT_DAG]
        assert dag["bundle_version"] != commit and not dag["is_stale"]
    finally:
        _pin(core, server.known_hosts)
    assert runnable(GIT_DAG, "git-7")["bundle_version"] == commit


def _pin(core: client.CoreV1Api, known_hosts: str) -> None:
    """Change the host keys as an upgrade does, and start the publisher anew."""
    core.patch_namespaced_config_map("trainyard-dag-publisher", NAMESPACE, {"data": {BUNDLE: known_hosts}})
    old = component_of(core, PUBLISHER, NAMESPACE)
    core.delete_namespaced_pod(old, NAMESPACE, grace_period_seconds=0)

    def runs_anew() -> bool:
        selector = f"app.kubernetes.io/component={PUBLISHER}"
        found = core.list_namespaced_pod(NAMESPACE, label_selector=selector).items
        return [pod.status.phase for pod in found] == ["Running"] and found[0].metadata.name != old

    wait_until("the new publisher", runs_anew)


@pytest.mark.nightly
def test_a_changed_dag_image_restarts_the_dag_processor_alone_and_runs_keep_theirs(
    core: client.CoreV1Api, release: Checkout, runnable: Callable, run: Callable
) -> None:
    runnable(IMAGE_DAG, "image-1")
    old = run(IMAGE_DAG, "image-1")
    before = pods(core)
    release.release("image-2")
    after = pods(core)
    assert {name for name, uid in after.items() if before.get(name) != uid} == {"dag-processor"}
    runnable(IMAGE_DAG, "image-2")
    new = run(IMAGE_DAG, "image-2")
    assert old.answers() == ["image-1", "image-1"]
    assert new.answers() == ["image-2", "image-2"]
