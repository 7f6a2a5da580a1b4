"""The Job of an attempt and its Service, against the Kubernetes schema."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest
from trainyard.naming import MAX_LABEL, TaskIdentity
from trainyard.platform import Platform
from trainyard.training.job import build_job, build_service
from trainyard.training.pod import TrainingRequest, build_pod
from trainyard_cli.versions import VERSIONS

INDEX = "batch.kubernetes.io/job-completion-index"


@pytest.fixture
def job(platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity) -> dict[str, Any]:
    pod = build_pod(platform, request_for_train, identity)
    name = identity.job_name(1, 2)
    return build_job(pod, name, nodes=2, gpus=4, waiting_seconds=600)


def test_an_affinity_of_the_values_stays(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    training = build_pod(platform, request_for_train, identity)
    node = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
    training["spec"]["affinity"] = {
        "nodeAffinity": node,
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": ["own"]},
    }
    job = build_job(training, "job", nodes=2, gpus=4, waiting_seconds=600)
    affinity = job["spec"]["template"]["spec"]["affinity"]
    assert affinity["nodeAffinity"] == node
    assert affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] == ["own"]
    (ours,) = affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert ours["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"


def test_job_and_service_are_valid(job: dict[str, Any]) -> None:
    kubernetes_validate.validate(job, VERSIONS.kubernetes_minor, strict=True)
    created = {**job, "metadata": {**job["metadata"], "uid": "u"}}
    kubernetes_validate.validate(build_service(created), VERSIONS.kubernetes_minor, strict=True)


def test_one_failed_pod_ends_the_job(job: dict[str, Any]) -> None:
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["backoffLimit"] == 0
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] == 600 + spec["template"]["spec"]["activeDeadlineSeconds"]


def test_the_pods_are_the_pod_of_one_node_and_know_each_other(
    job: dict[str, Any], platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    alone = build_pod(platform, request_for_train, identity)
    template, name = job["spec"]["template"], job["metadata"]["name"]
    assert template["metadata"]["labels"] == alone["metadata"]["labels"]
    assert template["metadata"]["annotations"] == alone["metadata"]["annotations"]
    kept = {key: template["spec"][key] for key in alone["spec"] if key != "containers"}
    assert kept == {key: value for key, value in alone["spec"].items() if key != "containers"}
    env = {entry["name"]: entry for entry in template["spec"]["containers"][0]["env"]}
    assert env["MASTER_ADDR"]["value"] == f"{name}-0.{name}"
    assert (env["WORLD_SIZE"]["value"], env["LOCAL_WORLD_SIZE"]["value"]) == ("8", "4")
    assert env["NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"] == f"metadata.annotations['{INDEX}']"


def test_the_service_names_pods_that_are_not_ready_and_goes_with_the_job(job: dict[str, Any]) -> None:
    service = build_service({**job, "metadata": {**job["metadata"], "uid": "u"}})
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    (owner,) = service["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["blockOwnerDeletion"]) == ("Job", "u", True)


@pytest.mark.parametrize("nodes", [2, 8, 128])
def test_a_pods_hostname_is_a_dns_label(identity: TaskIdentity, nodes: int) -> None:
    task = replace(identity, dag_id="d" * 200)
    assert len(f"{task.job_name(12, nodes)}-{nodes - 1}") <= MAX_LABEL
    assert task.job_name(1, nodes) != task.job_name(2, nodes)


def test_one_node_needs_nobody_else(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    alone = build_pod(platform, request_for_train, identity)
    job = build_job(alone, identity.job_name(1, 1), nodes=1, gpus=1, waiting_seconds=600)
    kubernetes_validate.validate(job, VERSIONS.kubernetes_minor, strict=True)
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["backoffLimit"]) == (1, 1, 0)
    assert job["spec"]["template"]["spec"] == alone["spec"]
