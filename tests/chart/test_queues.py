"""Queues for GPUs: what Kueue is told of the pools, and that nobody passes them."""

from __future__ import annotations

import json

import pytest
from render import Object, find, platform, render_chart

ON: Object = {"queues": {"kueue": {"enabled": True}}}
A100: Object = {
    "gpuType": "nvidia-a100",
    "resourceName": "amd.com/gpu",
    "gpusPerNode": 8,
    "spot": True,
    "labels": {"zone": "a"},
    "taints": [],
    "nodes": {"max": 3},
    "costPerGpuHour": 2.5,
}
KUEUE = "kueue.x-k8s.io/v1beta2"


def of_kueue(objects: list[Object]) -> list[Object]:
    return [each for each in objects if each["apiVersion"] == KUEUE]


def test_without_kueue_nothing_asks_for_it() -> None:
    objects = render_chart()
    assert of_kueue(objects) == []
    assert "kueue" not in json.dumps([each for each in objects if each["kind"] != "ConfigMap"])
    assert [pool for pool in platform(objects)["pools"].values() if "queue" in pool] == []


def test_each_pool_has_a_queue_with_its_gpus() -> None:
    objects = render_chart(values={**ON, "gpuPools": {"a100": A100}})
    pools = platform(objects)["pools"]
    assert {name: pool["queue"] for name, pool in pools.items()} == {name: name for name in pools}
    for name, pool in pools.items():
        queue = find(objects, "LocalQueue", name)
        assert queue["metadata"]["namespace"] == "ml-training"
        spec = find(objects, "ClusterQueue", queue["spec"]["clusterQueue"])["spec"]
        assert spec["queueingStrategy"] == "StrictFIFO"
        assert spec["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "ml-training"}}
        (group,) = spec["resourceGroups"]
        (flavor,) = group["flavors"]
        assert group["coveredResources"] == [pool["resourceName"]]
        gpus = str(pool["gpusPerNode"] * pool["maxNodes"])
        assert flavor["resources"] == [{"name": pool["resourceName"], "nominalQuota": gpus}]
        placed = find(objects, "ResourceFlavor", flavor["name"])["spec"]
        assert placed == {"nodeLabels": pool["nodeSelector"], "tolerations": pool["tolerations"]}


def test_a_closed_pool_admits_nothing() -> None:
    objects = render_chart(values={**ON, "gpuPools": {"spot": {"nodes": {"max": 0}}}})
    queue = find(objects, "LocalQueue", "spot")["spec"]["clusterQueue"]
    (group,) = find(objects, "ClusterQueue", queue)["spec"]["resourceGroups"]
    assert group["flavors"][0]["resources"][0]["nominalQuota"] == "0"


def test_another_namespace_is_everywhere() -> None:
    objects = render_chart(values={**ON, "training": {"namespace": "ml-jobs"}})
    assert find(objects, "Namespace", "ml-jobs")["metadata"]["labels"]["trainyard.dev/queued"] == "true"
    assert {each["metadata"].get("namespace", "ml-jobs") for each in of_kueue(objects)} == {"ml-jobs"}
    for name in ("pods", "jobs"):
        policy = find(objects, "ValidatingAdmissionPolicy", f"trainyard-trainyard-queued-{name}")
        (where,) = policy["spec"]["matchConstraints"]["namespaceSelector"]["matchExpressions"]
        assert where["values"] == ["ml-jobs"]


@pytest.mark.parametrize("name", ["pods", "jobs"])
def test_gpus_of_all_pools_are_asked_for_through_a_queue(name: str) -> None:
    objects = render_chart(values={**ON, "gpuPools": {"a100": A100}})
    spec = find(objects, "ValidatingAdmissionPolicy", f"trainyard-trainyard-queued-{name}")["spec"]
    (condition,) = spec["matchConditions"]
    assert condition["name"] == "asks-for-gpus"
    assert '["amd.com/gpu","nvidia.com/gpu"]' in condition["expression"]
    (rule,) = spec["validations"]
    assert "set the label" in rule["message"] or "run the pod as a Job" in rule["message"]
    # It names a queue itself, as soon as it has read of it.
    is_let = "system:serviceaccount:trainyard:trainyard-triggerer" in rule["expression"]
    assert is_let is (name == "jobs")


def test_without_admission_policies_or_pools_there_are_none() -> None:
    for values in ({"admissionPolicies": {"enabled": False}}, {"gpuPools": None}):
        objects = render_chart(values={**ON, **values})
        assert [each for each in objects if "queued-" in each["metadata"]["name"]] == []


def test_the_triggerer_may_read_why_a_job_waits() -> None:
    role = find(render_chart(values=ON), "Role", "trainyard-training-launcher")
    (rule,) = (rule for rule in role["rules"] if "workloads" in rule["resources"])
    assert (rule["apiGroups"], rule["verbs"]) == (["kueue.x-k8s.io"], ["list"])
