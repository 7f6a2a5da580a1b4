"""The reconciler against an API server over HTTP: what it ends, and what it leaves alone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import TaskInstanceState
from api_server import ApiServer, Pod, kubeconfig
from conftest import PLATFORM_FILE
from kubernetes_asyncio.config import kube_config
from sqlalchemy import Uuid, insert
from sqlalchemy.dialects import postgresql
from trainyard.kube.client import KubeError
from trainyard.naming import TaskIdentity
from trainyard.platform import Platform, load_platform
from trainyard.reconciler import __main__ as process
from trainyard.reconciler import database
from trainyard.reconciler.database import Database
from trainyard.reconciler.reconciler import WAITING, Reconciler
from trainyard.training.job import build_job
from trainyard.training.pod import TrainingRequest, build_pod

OTHER = UUID("0198f5c6-0000-7000-8000-000000000001")


@pytest.fixture
def looks(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> Callable[..., ApiServer]:
    """Looks at a pod and at a gang of two, all of one try; returns the server afterwards.

    `state` is that of the try, None for one that has gone. `change` prepares the server.
    """

    def _look(
        state: str | None,
        *,
        change: Callable[[ApiServer], Any] = lambda server: None,
        keep_failed: bool = False,
        patience: float = 0,
    ) -> ApiServer:
        asked: list[UUID] = []

        def states(tries: Iterable[UUID]) -> Mapping[UUID, str]:
            asked.extend(tries)
            return {} if state is None else {UUID(identity.uid): state}

        training = replace(platform.training, keep_failed_pods=keep_failed)
        told = replace(platform, training=training)

        async def look() -> ApiServer:
            server = ApiServer(fate=nothing)
            pod = build_pod(platform, request_for_train, identity)
            job = build_job(pod, "gang", nodes=2, gpus=1, waiting_seconds=60)
            server.jobs["gang"] = {**job, "metadata": {**job["metadata"], "uid": "job"}, "status": {}}
            server.pods = {"alone": made(pod, "alone")}
            for rank in (0, 1):
                server.pods[f"gang-{rank}"] = made(pod, f"gang-{rank}", owner="gang")
            change(server)
            async with server.serve() as kube:
                reconciler = Reconciler(states, patience)
                await reconciler.look(kube, told)
                await reconciler.look(kube, told)
            assert set(asked) <= {UUID(identity.uid), UUID(int=0)}
            return server

        return asyncio.run(asyncio.wait_for(look(), 120))

    return _look


async def nothing(server: ApiServer, pod: Pod) -> None: ...


def made(pod: Pod, name: str, owner: str = "") -> Pod:
    owners = [{"kind": "Job", "name": owner, "uid": "job"}] if owner else []
    meta = {**pod["metadata"], "name": name, "uid": name, "resourceVersion": "1", "ownerReferences": owners}
    return {**pod, "metadata": meta, "status": {"phase": "Running"}}


@pytest.mark.parametrize("state", [*TaskInstanceState, None, ""])
def test_what_nobody_waits_for_is_ended(looks: Callable[..., ApiServer], state: str | None) -> None:
    server = looks(state)
    if state in WAITING:
        assert len(server.pods) == 3 and len(server.jobs) == 1 and server.events == []
    else:
        assert (server.pods, server.jobs) == ({}, {})


def test_whoever_deletes_says_why(looks: Callable[..., ApiServer], caplog: pytest.LogCaptureFixture) -> None:
    server = looks("failed")
    told = {(event["involvedObject"]["kind"], event["involvedObject"]["name"]) for event in server.events}
    assert told == {("Job", "gang"), ("Pod", "alone")}
    (message,) = {event["message"] for event in server.events}
    assert message == (
        "task train of run manual__2026-11-21T07:00:00.123456+00:00 of DAG digits_training is failed: "
        "nobody waits for it"
    )
    assert f"deleted Pod ml-training/alone: {message}" in caplog.text


def test_a_trigger_may_delete_it_first(looks: Callable[..., ApiServer]) -> None:
    server = looks("failed", patience=60)
    assert len(server.pods) == 3 and len(server.jobs) == 1


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("release", "other.trainyard"),  # another database knows its tries
        ("release", None),
        ("task-instance", None),  # an older release's, or nobody's
    ],
)
def test_what_is_not_its_own_stays(looks: Callable[..., ApiServer], label: str, value: str | None) -> None:
    def change(server: ApiServer) -> None:
        for found in (*server.pods.values(), *server.jobs.values()):
            labels = {**found["metadata"]["labels"], f"trainyard.dev/{label}": value}
            found["metadata"]["labels"] = {key: value for key, value in labels.items() if value}

    server = looks(None, change=change)
    assert len(server.pods) == 3 and len(server.jobs) == 1


@pytest.mark.parametrize(("state", "stays"), [("failed", True), (None, True), ("success", False)])
def test_what_has_failed_may_be_kept(looks: Callable[..., ApiServer], state: str | None, stays: bool) -> None:
    def ends(server: ApiServer) -> None:
        for pod in server.pods.values():
            pod["status"] = {"phase": "Failed"}
        server.jobs["gang"]["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}

    server = looks(state, change=ends, keep_failed=True)
    assert bool(server.pods) is bool(server.jobs) is stays


@pytest.mark.parametrize(("minutes", "stays"), [(0, True), (5, False)])
def test_a_pod_that_is_being_deleted_is_left_alone_unless_its_node_is_lost(
    looks: Callable[..., ApiServer], minutes: int, stays: bool
) -> None:
    since = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat()

    def deleted(server: ApiServer) -> None:
        server.jobs["gang"]["metadata"]["deletionTimestamp"] = since
        for pod in server.pods.values():
            pod["metadata"]["deletionTimestamp"] = since

    server = looks("failed", change=deleted)
    assert list(server.pods) == (["alone", "gang-0", "gang-1"] if stays else [])


def test_a_label_that_somebody_has_changed_is_no_try(looks: Callable[..., ApiServer]) -> None:
    def change(server: ApiServer) -> None:
        labels = server.pods["alone"]["metadata"]["labels"]
        server.pods["alone"]["metadata"]["labels"] = {**labels, "trainyard.dev/task-instance": "x"}

    assert "alone" not in looks("deferred", change=change).pods


def test_an_api_server_that_refuses_is_asked_again_later(platform: Platform) -> None:
    async def look() -> None:
        server = ApiServer(fate=nothing)
        async with server.serve() as kube:
            kube._jobs = kube._jobs.replace("ml-training", "elsewhere")
            with pytest.raises(KubeError):
                await Reconciler(lambda tries: {}).look(kube, platform)

    asyncio.run(look())


def test_patience_with_one_namespace_is_not_lost_over_another(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    async def look() -> None:
        one, other = ApiServer(fate=nothing), ApiServer(fate=nothing, namespace="ml-vision")
        reconciler = Reconciler(lambda tries: {}, patience=0.2)
        async with one.serve() as kube, other.serve() as other_kube:
            for server in (one, other):
                pod = build_pod(platform, request_for_train, identity)
                server.pods = {server.namespace: made(pod, server.namespace)}
            for pause in (0.3, 0):
                assert len(one.pods) == len(other.pods) == 1
                await reconciler.look(kube, platform)
                await reconciler.look(other_kube, platform)
                await asyncio.sleep(pause)
            assert (one.pods, other.pods) == ({}, {})

    asyncio.run(asyncio.wait_for(look(), 120))


def has_no_try(path: Path) -> Database:
    known = Database(f"sqlite:///{path}/airflow.db")
    with known._engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE task_instance (id CHAR(32), state VARCHAR(20))")
    return known


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([], "ml-training found nothing out: Kubernetes API: 404"),
        ([503] * 3, "found nothing out: TimeoutError()"),
    ],
    ids=["refuses", "does not answer"],
)
def test_a_namespace_that_gives_no_answer_does_not_stop_the_others(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    request_for_train: TrainingRequest,
    identity: TaskIdentity,
    errors: list[int],
    told: str,
) -> None:
    vision = {"vision": {"namespace": "ml-vision", "dags": [identity.dag_id]}}
    (tmp_path / "platform.json").write_text(
        json.dumps({**json.loads(PLATFORM_FILE.read_text()), "teams": vision})
    )
    monkeypatch.setenv("TRAINYARD_PLATFORM", str(tmp_path / "platform.json"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv(database.CONNECTION, has_no_try(tmp_path)._engine.url.render_as_string())
    monkeypatch.setattr(process, "Reconciler", partial(Reconciler, patience=0))
    monkeypatch.setattr(process, "LOOK_SECONDS", 1)  # the client's three pauses are longer
    caplog.set_level("INFO")

    async def look() -> None:
        # It knows no namespace but the team's.
        server = ApiServer(fate=nothing, namespace="ml-vision")
        server.pods = {"alone": made(build_pod(load_platform(), request_for_train, identity), "alone")}
        server.errors = list(errors)
        async with server.serve() as kube:
            # The client has read KUBECONFIG's value when it was imported.
            monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig(kube, tmp_path)))
            runs = asyncio.create_task(process.run(0.05, tmp_path / "looked"))
            while not server.events:  # which is told last
                await asyncio.sleep(0.02)
                assert not runs.done()
            runs.cancel()
            assert server.pods == {}

    asyncio.run(asyncio.wait_for(look(), 120))
    assert "at namespace ml-training, ml-vision" in caplog.text
    first = next(record.getMessage() for record in caplog.records if "nothing out" in record.getMessage())
    assert first.startswith("this look at namespace ml-training ") and told in first
    assert "deleted Pod ml-vision/alone" in caplog.text


def test_the_database_knows_which_tries_there_are(tmp_path: Path) -> None:
    known = Database(f"sqlite:///{tmp_path}/airflow.db")
    with known._engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE task_instance (id CHAR(32), state VARCHAR(20))")
        rows = [{"id": UUID(int=1), "state": "deferred"}, {"id": UUID(int=2), "state": None}]
        connection.execute(insert(database._TASK_INSTANCE), rows)
    assert known.states({UUID(int=1), UUID(int=2), OTHER}) == {UUID(int=1): "deferred", UUID(int=2): ""}


def test_airflow_has_the_columns_that_are_read() -> None:
    column = TaskInstance.__table__.c.id
    assert column.type.compile(postgresql.dialect()) == Uuid().compile(postgresql.dialect()) == "UUID"
    assert "state" in TaskInstance.__table__.c


def test_it_imports_nothing_of_airflow(tmp_path: Path) -> None:
    """Which would cost it 200 MiB."""
    code = "import sys, trainyard.reconciler.__main__; print([m for m in sys.modules if 'airflow' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("variables", "code", "words"),
    [
        ({}, 2, "the variable AIRFLOW__DATABASE__SQL_ALCHEMY_CONN is not set"),
        ({database.CONNECTION: "sqlite://"}, 1, "cannot read the platform file /nowhere"),
    ],
)
def test_it_says_what_it_lacks(variables: dict[str, str], code: int, words: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != database.CONNECTION}
    done = subprocess.run(
        [sys.executable, "-m", "trainyard.reconciler"],
        env={**environment, "TRAINYARD_PLATFORM": "/nowhere", **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code and words in done.stdout + done.stderr
