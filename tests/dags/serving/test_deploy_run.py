"""`DeployRun` against a cluster in memory whose roll-outs complete at once, or never."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from trainyard.failures import Cause
from trainyard.platform import Platform
from trainyard.serving import deploy_run
from trainyard.serving import manifests as serving
from trainyard.serving.deploy_run import DeployRun
from trainyard.serving.http import NoAnswer
from trainyard.serving.manifests import DeployFailed, DeployRequest, Record, Superseded

CRASHED = {
    "waiting": {"reason": "CrashLoopBackOff"},
    "last": {"exitCode": 65, "message": '{"error": "the model cannot be loaded"}'},
}
STUCK = {"waiting": {"reason": "ContainerCreating"}}


class Cluster:
    """`ServingKube` and `ModelServer` in memory; `states` are those of versions that never become ready."""

    def __init__(self, states: dict[str, dict[str, Any]] | None = None) -> None:
        self.namespace = "ml-serving"
        self.url = "http://fraud"
        self.states = states or {}
        self.objects: dict[str, dict[str, Any]] = {}
        self.answers = True  # whether predictions succeed
        self.applied: list[str] = []  # versions, in order

    async def deployment(self, name: str) -> dict[str, Any] | None:
        return self.objects.get("Deployment")

    async def apply(self, manifest: dict[str, Any]) -> None:
        kept = json.loads(json.dumps(manifest))
        self.objects[manifest["kind"]] = kept
        if manifest["kind"] == "Deployment":
            kept["metadata"]["generation"] = 1
            counts = ("replicas", "updatedReplicas", "availableReplicas")
            kept["status"] = {"observedGeneration": 1} | dict.fromkeys(counts, kept["spec"]["replicas"])
            if self.wanted in self.states:
                kept["status"]["availableReplicas"] = 0
            self.applied.append(self.wanted)

    async def remove(self, kind: str, name: str) -> None:
        self.objects.pop(kind, None)

    async def find(self, selector: str) -> list[dict[str, Any]]:
        if self.wanted not in self.states:
            return []
        state = self.states[self.wanted]
        container = {"name": "server", "state": {"waiting": state["waiting"]}, "restartCount": 1}
        if "last" in state:
            container["lastState"] = {"terminated": state["last"]}
        spec = {"nodeName": "n1", "containers": [{"image": "trainer:1"}]}
        return [{"metadata": {"name": "fraud-1"}, "spec": spec, "status": {"containerStatuses": [container]}}]

    async def events(self, name: str) -> list[dict[str, Any]]:
        return [{"reason": "BackOff", "message": "restarting"}]

    async def tail(self, name: str, lines: int, container: str, *, previous: bool = False) -> list[str]:
        return ['{"level": "error", "event": "failed", "error": "the model cannot be loaded"}']

    async def version(self) -> dict[str, str]:
        return {"model": "fraud", "version": self.wanted}

    async def example(self) -> dict[str, Any]:
        return {"inputs": [[1]]}

    async def predict(self, request: dict[str, Any]) -> list[int]:
        if not self.answers:
            raise NoAnswer("HTTP 500")
        return [1]

    @property
    def wanted(self) -> str:
        template = self.objects["Deployment"]["spec"]["template"]
        return template["metadata"]["annotations"]["trainyard.dev/model-version"]

    @property
    def record(self) -> Record:
        record = Record.read(self.objects["Deployment"])
        assert record
        return record


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy_run, "POLL_SECONDS", 0)


def run_of(cluster: Any, platform: Platform, version: str, token: str = "", timeout: int = 60) -> DeployRun:
    request, log = DeployRequest("fraud", version), logging.getLogger("deploy")
    return DeployRun(cluster, platform, request, token or f"try {version}", log, timeout, cluster)


def deploy(cluster: Cluster, platform: Platform, version: str, **kwargs: Any) -> dict[str, Any]:
    return asyncio.run(run_of(cluster, platform, version, **kwargs).run())


def test_a_first_deploy(platform: Platform) -> None:
    cluster = Cluster()
    assert deploy(cluster, platform, "1") == {
        "url": "http://fraud.ml-serving.svc.cluster.local:8080/invocations",
        "model": "fraud",
        "version": "1",
        "replaced_version": None,
    }
    assert set(cluster.objects) == {"Deployment", "Service", "PodDisruptionBudget"}
    assert cluster.record.verified_version == "1" and not cluster.record.deploy_started


def test_the_next_version_and_the_same_again(platform: Platform) -> None:
    cluster = Cluster()
    deploy(cluster, platform, "1")
    assert deploy(cluster, platform, "2")["replaced_version"] == "1"
    assert deploy(cluster, platform, "2", token="later")["replaced_version"] == "1"
    assert deploy(cluster, platform, "1", token="back")["replaced_version"] == "2"


def test_a_broken_version_is_rolled_back_to_precisely_what_served(platform: Platform) -> None:
    cluster = Cluster({"2": CRASHED})
    deploy(cluster, platform, "1")
    # As an older release of the platform left it.
    cluster.objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"] = "trainer:old"
    served = cluster.objects["Deployment"]["spec"]
    annotations = cluster.objects["Deployment"]["metadata"]["annotations"]
    annotations["trainyard.dev/verified-spec"] = json.dumps(served)
    with pytest.raises(DeployFailed, match=r"cannot be loaded; version 1 goes on serving") as failed:
        deploy(cluster, platform, "2")
    assert (failed.value.cause, failed.value.retry) == (Cause.BAD_DATA, False)
    assert failed.value.details["log"] == ["failed error=the model cannot be loaded"]
    assert cluster.objects["Deployment"]["spec"] == served
    assert cluster.record.verified_version == cluster.record.model_version == "1"
    assert deploy(cluster, platform, "3")["replaced_version"] == "1", "the next one is not disturbed"
    assert not cluster.record.deploy_failure


def test_a_broken_first_version_leaves_nothing(platform: Platform) -> None:
    cluster = Cluster({"1": CRASHED})
    with pytest.raises(DeployFailed, match="there was no earlier version"):
        deploy(cluster, platform, "1")
    assert cluster.objects == {}


def test_a_wrong_smoke_prediction_is_rolled_back(platform: Platform) -> None:
    cluster = Cluster()
    deploy(cluster, platform, "1")
    cluster.answers = False
    with pytest.raises(DeployFailed, match=r"smoke prediction failed: HTTP 500; version 1 goes on"):
        deploy(cluster, platform, "2")
    assert cluster.wanted == "1"


def test_a_roll_out_that_does_not_end_is_rolled_back_and_may_be_tried_again(platform: Platform) -> None:
    cluster = Cluster({"2": STUCK})
    deploy(cluster, platform, "1")
    with pytest.raises(DeployFailed, match=r"not rolled out in time: fraud-1: on node n1: Container") as late:
        deploy(cluster, platform, "2", timeout=-2)
    assert (late.value.cause, late.value.retry) == (Cause.DEADLINE, True)
    assert cluster.wanted == "1"


def test_a_triggerer_that_starts_in_the_middle_goes_on(platform: Platform) -> None:
    cluster = Cluster()
    deploy(cluster, platform, "1")
    run = run_of(cluster, platform, "2")
    started = asyncio.run(run._start())
    asyncio.run(run._apply(run.spec, started))
    assert asyncio.run(run_of(cluster, platform, "2")._start()) == started
    assert deploy(cluster, platform, "2")["replaced_version"] == "1"


def test_a_triggerer_that_starts_during_a_roll_back_goes_on_with_that(platform: Platform) -> None:
    cluster = Cluster()
    deploy(cluster, platform, "1")
    run = run_of(cluster, platform, "2")
    asyncio.run(run._restore(asyncio.run(run._start()), DeployFailed(Cause.OOM, "out of memory")))
    with pytest.raises(DeployFailed, match="out of memory; version 1 goes on serving") as failed:
        deploy(cluster, platform, "2")
    assert failed.value.cause == Cause.OOM
    assert "2" not in cluster.applied


def test_of_two_deploys_at_once_the_later_wins_and_the_earlier_says_so(platform: Platform) -> None:
    cluster = Cluster({"2": STUCK})
    deploy(cluster, platform, "1")

    async def both() -> tuple[Any, ...]:
        earlier = asyncio.create_task(run_of(cluster, platform, "2").run())
        await asyncio.sleep(0.01)
        return await asyncio.gather(earlier, run_of(cluster, platform, "3").run(), return_exceptions=True)

    earlier, later = asyncio.run(both())
    assert isinstance(earlier, Superseded) and "try 3 deploys version 3" in earlier.message
    assert later["replaced_version"] == "1"
    assert cluster.wanted == "3"


def test_a_deploy_that_a_user_ends_is_rolled_back(platform: Platform) -> None:
    cluster = Cluster()
    deploy(cluster, platform, "1")
    run = run_of(cluster, platform, "2")
    asyncio.run(run._apply(run.spec, asyncio.run(run._start())))
    asyncio.run(run.abandon())
    assert cluster.wanted == "1"
    deploy(cluster, platform, "2", token="next")
    asyncio.run(run_of(cluster, platform, "2", token="next").abandon())
    assert cluster.wanted == "2", "what is done stays"


def test_spec_does_not_change_by_itself(platform: Platform) -> None:
    """Otherwise a deploy of the same version would restart its servers."""
    request = DeployRequest("fraud", "1")
    assert serving.build_spec(platform, request) == serving.build_spec(platform, request)
