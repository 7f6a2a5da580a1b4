"""A training of a team's DAG: all that its trigger makes, and deletes, is in the team's namespace."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from api_server import ApiServer, Pod, kubeconfig
from conftest import PLATFORM_FILE
from kubernetes_asyncio.config import kube_config
from told import training_of, trigger_of
from trainyard.training import attempt_pods, attempt_run, start

TEAMS = {"vision": {"namespace": "ml-vision", "dags": ["vision_*"]}}
TEAM = "trainyard.dev/team"


@pytest.fixture
def teams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform with a team, without queues; its MLflow has no address for people, so that none is asked."""
    data = json.loads(PLATFORM_FILE.read_text())
    data["training"]["trackingUiUrl"] = ""
    for pool in data["pools"].values():
        del pool["queue"]
    (tmp_path / "platform.json").write_text(json.dumps({**data, "teams": TEAMS}))
    monkeypatch.setenv("TRAINYARD_PLATFORM", str(tmp_path / "platform.json"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for module in (attempt_pods, attempt_run, start):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.05)


@pytest.mark.parametrize(
    ("dag_id", "namespace", "labels"),
    [("vision_training", "ml-vision", {TEAM: "vision"}), ("other", "ml-training", {})],
)
def test_a_training_is_in_the_namespace_of_its_dags_team(
    teams: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dag_id: str,
    namespace: str,
    labels: dict[str, str],
) -> None:
    async def succeeds(server: ApiServer, pod: Pod) -> None:
        await server.run(pod["metadata"]["name"], exit_code=0, message='{"f1": 0.9}')

    async def train() -> None:
        server, trigger = ApiServer(succeeds, namespace), trigger_of(training_of(dag_id, "ondemand"))
        async with server.serve() as kube:  # which knows no other namespace
            # The client has read KUBECONFIG's value when it was imported.
            monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig(kube, tmp_path)))
            assert await trigger.work() == {"f1": 0.9}
            (job,) = server.jobs.values()
            assert job["metadata"]["namespace"] == namespace
            for made in (job, *server.created):
                found = made["metadata"]["labels"]
                assert {key: each for key, each in found.items() if key == TEAM} == labels
            assert trigger.pushed("pod_namespace") == [namespace]
            await trigger.abandon()
            assert (server.jobs, server.pods) == ({}, {})

    asyncio.run(asyncio.wait_for(train(), 120))
