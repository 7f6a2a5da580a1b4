"""Manifests of model servers, and the state of a roll-out."""

from __future__ import annotations

import copy
import json
from typing import Any

import kubernetes_validate
import pytest
from trainyard.failures import Cause
from trainyard.platform import Platform
from trainyard.serving import manifests as serving
from trainyard.serving.manifests import DeployRequest, Record
from trainyard_cli.versions import VERSIONS

REQUEST = DeployRequest("fraud", "3")
RECORD = Record("fraud", "3", "fraud_training run deploy try 1", deploy_started="1700000000")


@pytest.fixture
def spec(platform: Platform) -> dict[str, Any]:
    return serving.build_spec(platform, REQUEST)


@pytest.fixture
def container(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["template"]["spec"]["containers"][0]


def test_what_is_applied_is_valid(platform: Platform, spec: dict[str, Any]) -> None:
    deployment = serving.build_deployment(platform, "fraud", spec, RECORD)
    service = serving.build_service(platform, "fraud")
    for manifest in (deployment, service):
        kubernetes_validate.validate(manifest, VERSIONS.kubernetes_minor, strict=True)
        assert manifest["metadata"]["namespace"] == "ml-serving"
        assert manifest["metadata"]["name"] == "fraud"
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    assert serving.server_url(platform.serving, "fraud") == "http://fraud.ml-serving.svc.cluster.local:8080"


def test_no_request_is_lost_while_versions_change(spec: dict[str, Any], container: dict[str, Any]) -> None:
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    grace = spec["template"]["spec"]["terminationGracePeriodSeconds"]
    assert 0 < container["lifecycle"]["preStop"]["sleep"]["seconds"] < grace
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_the_version_is_pinned(spec: dict[str, Any], container: dict[str, Any]) -> None:
    env = {one["name"]: one["value"] for one in container["env"]}
    assert (env["TRAINYARD_MODEL"], env["TRAINYARD_MODEL_VERSION"]) == ("fraud", "3")
    assert env["MLFLOW_TRACKING_URI"].startswith("http://trainyard-mlflow.")
    assert spec["template"]["metadata"]["annotations"]["trainyard.dev/model-version"] == "3"


def test_the_server_may_do_nothing(spec: dict[str, Any], container: dict[str, Any], platform) -> None:
    pod = spec["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False and pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == platform.training.container_security_context
    assert set(container["resources"]) == {"requests", "limits"}


def test_replicas_and_image_are_the_platforms_unless_given(platform: Platform, spec: dict[str, Any]) -> None:
    other = serving.build_spec(platform, DeployRequest("fraud", "3", replicas=4, image="registry/own:1"))
    assert (spec["replicas"], other["replicas"]) == (1, 4)
    assert other["template"]["spec"]["containers"][0]["image"] == "registry/own:1"


@pytest.mark.parametrize(
    ("model", "name"),
    [("fraud", "fraud"), ("digits-e2e-20261121", "digits-e2e-20261121"), ("a" * 63, "a" * 63)],
)
def test_a_server_is_named_after_its_model(model: str, name: str) -> None:
    assert serving.server_name(model) == name


@pytest.mark.parametrize("model", ["Fraud_Model", "7digits", "fraud.v2", "x" * 100, "-", "Ünder"])
def test_any_other_name_becomes_a_dns_label_of_its_own(model: str) -> None:
    name = serving.server_name(model)
    assert len(name) <= 63 and name[0].isalpha() and name.replace("-", "a").isalnum() and name.islower()
    assert name != serving.server_name(model + "_")


def test_a_record_survives_in_annotations(platform: Platform, spec: dict[str, Any]) -> None:
    record = Record("fraud", "4", "me", "12", "3", json.dumps(spec), "2", '{"cause": "oom"}')
    assert Record.read(serving.build_deployment(platform, "fraud", spec, record)) == record
    assert "trainyard.dev/deploy-failure" not in RECORD.annotations()
    assert Record.read(None) is None


ROLLED_OUT = {
    "metadata": {"generation": 2},
    "spec": {"replicas": 2},
    "status": {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2},
}


def test_a_finished_roll_out() -> None:
    assert serving.is_rolled_out(ROLLED_OUT)


@pytest.mark.parametrize(
    "status", [{"observedGeneration": 1}, {"replicas": 3}, {"updatedReplicas": 1}, {"availableReplicas": 1}]
)
def test_an_unfinished_roll_out(status: dict[str, int]) -> None:
    deployment = copy.deepcopy(ROLLED_OUT)
    deployment["status"].update(status)
    assert not serving.is_rolled_out(deployment)
    assert not serving.is_rolled_out({**ROLLED_OUT, "status": {}})


def pod(state: dict[str, Any], restarts: int = 0, last: dict[str, Any] | None = None) -> dict[str, Any]:
    status = {"name": "server", "restartCount": restarts, "state": state, "lastState": last or {}}
    return {
        "metadata": {"name": "fraud-1"},
        "spec": {"nodeName": "n1", "containers": [{"image": "trainer:1"}]},
        "status": {"containerStatuses": [status]},
    }


def ended(code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


LOG = '{"event": "a"}\n{"level": "error", "event": "failed", "error": "no model: bad zip"}\n'
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}


@pytest.mark.parametrize(
    ("state", "restarts", "last", "seconds", "cause", "retry", "said"),
    [
        (ended(65, LOG), 0, None, 0, Cause.BAD_DATA, False, "bad zip"),
        (BACK_OFF, 1, ended(65, LOG), 0, Cause.BAD_DATA, False, "bad zip"),
        (BACK_OFF, 1, ended(64), 0, Cause.BAD_CONFIG, False, "exit code 64"),
        (BACK_OFF, 1, ended(137, reason="OOMKilled"), 0, Cause.OOM, False, "limits.memory"),
        (BACK_OFF, 3, ended(1, "Traceback\nBoom"), 0, Cause.CODE, False, "Boom"),
        (BACK_OFF, 3, ended(75, LOG), 0, Cause.TEMPORARY, True, "bad zip"),
        (
            {"waiting": {"reason": "ErrImagePull", "message": "no such host"}},
            0,
            None,
            121,
            Cause.IMAGE,
            False,
            "no such",
        ),
        ({"waiting": {"reason": "InvalidImageName"}}, 0, None, 0, Cause.IMAGE, False, "trainer:1"),
        (
            {"waiting": {"reason": "CreateContainerConfigError"}},
            0,
            None,
            121,
            Cause.BAD_CONFIG,
            False,
            "created",
        ),
    ],
)
def test_a_server_that_will_never_be_ready(state, restarts, last, seconds, cause, retry, said) -> None:
    failure = serving.server_failure(pod(state, restarts, last), seconds)
    assert failure and (failure.cause, failure.retry) == (cause, retry)
    assert said in failure.message


@pytest.mark.parametrize(
    "one",
    [
        pod({"running": {}}),
        pod({"waiting": {"reason": "ContainerCreating"}}),
        pod({"waiting": {"reason": "ErrImagePull"}}),
        pod(BACK_OFF, 1, ended(75)),
        {"metadata": {"name": "p"}, "spec": {}, "status": {}},
    ],
)
def test_a_server_that_may_yet_be_ready(one: dict[str, Any]) -> None:
    assert serving.server_failure(one, 10) is None
    assert serving.why_not_ready(one)


def test_why_a_pod_waits() -> None:
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: Insufficient memory."}
    waiting = {"metadata": {}, "spec": {}, "status": {"conditions": [unscheduled]}}
    assert serving.why_not_ready(waiting) == "not scheduled: 0/3 nodes: Insufficient memory."
    assert serving.why_not_ready(pod({"running": {}})) == "on node n1: the model is loading"
    assert "CrashLoopBackOff" in serving.why_not_ready(pod(BACK_OFF))
    quota = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    assert serving.replica_failure({"status": {"conditions": [quota]}}) == "exceeded quota"
    assert serving.replica_failure({}) == ""
