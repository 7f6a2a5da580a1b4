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


LISTS: Object = {**ON, "gpuPoolLists": {"cheapest": {"pools": ["spot", "ondemand"]}}}
TEAMS: Object = {
    "gpuPools": {"ondemand": {"nodes": {"max": 4}}, "a100": A100},
    "teams": {
        "vision": {
            "namespace": "ml-vision",
            "dags": [],
            "weight": 3,
            "gpus": {"ondemand": {"own": 2, "borrow": 1, "lend": 0}, "a100": {"own": 8}},
        }
    },
}


def spec_of(objects: list[Object], queue: str, namespace: str = "ml-training") -> Object:
    """The spec of the ClusterQueue by which Jobs of a namespace wait in a queue."""
    (local,) = (
        each
        for each in objects
        if (each["kind"], each["metadata"]["name"], each["metadata"].get("namespace"))
        == ("LocalQueue", queue, namespace)
    )
    return find(objects, "ClusterQueue", local["spec"]["clusterQueue"])["spec"]


def quotas(spec: Object) -> dict[str, Object]:
    """The quota of each flavor of a ClusterQueue or Cohort, in their order."""
    found = {}
    for group in spec["resourceGroups"]:
        for flavor in group["flavors"]:
            (resource,) = flavor["resources"]
            assert [resource["name"]] == group["coveredResources"]
            name = flavor["name"].removeprefix("trainyard-trainyard-")
            found[name] = {key: value for key, value in resource.items() if key != "name"}
    return found


def test_a_list_of_pools_is_a_queue_of_the_same_gpus() -> None:
    objects = render_chart(values=LISTS)
    cohort = find(objects, "Cohort", "trainyard-trainyard-own.pools")["spec"]
    assert quotas(cohort) == {"ondemand": {"nominalQuota": "1"}, "spot": {"nominalQuota": "1"}}
    assert "parentName" not in cohort
    for name, pools in {"cheapest": ["spot", "ondemand"], "spot": ["spot"], "ondemand": ["ondemand"]}.items():
        spec = spec_of(objects, name)
        assert (spec["queueingStrategy"], spec["cohortName"]) == (
            "StrictFIFO",
            "trainyard-trainyard-own.pools",
        )
        assert list(quotas(spec)) == pools, "the preferred one first"
        assert all(quota == {"nominalQuota": "0"} for quota in quotas(spec).values())
        assert spec["preemption"] == {
            "withinClusterQueue": "LowerPriority",
            "reclaimWithinCohort": "LowerPriority",
            "borrowWithinCohort": {"policy": "LowerPriority"},
        }
        assert ("flavorFungibility" in spec) is (name == "cheapest")


def test_lists_of_teams_have_what_is_the_team_s() -> None:
    objects = render_chart(values={**LISTS, **TEAMS})
    parent = {"parentName": "trainyard-trainyard-all.pools"}
    vision, nobody = (
        find(objects, "Cohort", f"trainyard-trainyard-own.pools{end}")["spec"] for end in (".vision", "")
    )
    assert parent.items() <= vision.items() and parent.items() <= nobody.items()
    assert quotas(vision) == {
        "ondemand": {"nominalQuota": "2", "borrowingLimit": "1", "lendingLimit": "0"},
        "spot": {"nominalQuota": "0"},
    }
    assert quotas(nobody) == {"ondemand": {"nominalQuota": "2"}, "spot": {"nominalQuota": "1"}}
    assert [cohort["fairSharing"]["weight"] for cohort in (vision, nobody)] == ["3", "1"]
    for name in ("cheapest", "spot", "ondemand"):
        spec = spec_of(objects, name, "ml-vision")
        assert spec["cohortName"] == "trainyard-trainyard-own.pools.vision"
        assert spec["preemption"]["reclaimWithinCohort"] == "Any"
        assert "fairSharing" not in spec


def test_pools_of_no_list_stay_as_they_are() -> None:
    plain, listed = (render_chart(values={**values, **TEAMS}) for values in (ON, LISTS))
    for namespace in ("ml-training", "ml-vision"):
        assert spec_of(plain, "a100", namespace) == spec_of(listed, "a100", namespace)
    assert not [each for each in plain if each["kind"] == "Cohort"]


@pytest.mark.parametrize(
    ("chosen", "borrow", "preempt"),
    [
        ({}, "MayStopSearch", "TryNextFlavor"),
        ({"nextPool": None}, "MayStopSearch", "TryNextFlavor"),
        ({"nextPool": "beforePreempting"}, "MayStopSearch", "TryNextFlavor"),
        ({"nextPool": "beforeBorrowing"}, "TryNextFlavor", "TryNextFlavor"),
        ({"nextPool": "last"}, "MayStopSearch", "MayStopSearch"),
    ],
)
def test_a_list_says_when_the_next_pool_is_taken(chosen: Object, borrow: str, preempt: str) -> None:
    pools = {"pools": ["spot", "ondemand"], **chosen}
    objects = render_chart(values={**ON, "gpuPoolLists": {"cheapest": pools}})
    told = spec_of(objects, "cheapest")["flavorFungibility"]
    assert told == {"whenCanBorrow": borrow, "whenCanPreempt": preempt}


def test_lists_of_several_resources_are_apart() -> None:
    lists = {**LISTS["gpuPoolLists"], "big": {"pools": ["b100", "a100"]}}
    pools = {"a100": A100, "b100": {**A100, "spot": False}}
    objects = render_chart(values={**ON, "gpuPools": pools, "gpuPoolLists": lists})
    cohort = find(objects, "Cohort", "trainyard-trainyard-own.pools")["spec"]
    assert [group["coveredResources"] for group in cohort["resourceGroups"]] == [
        ["amd.com/gpu"],
        ["nvidia.com/gpu"],
    ]
    assert list(quotas(cohort)) == ["a100", "b100", "ondemand", "spot"]
    assert list(quotas(spec_of(objects, "big"))) == ["b100", "a100"]


def test_a_list_is_told_and_has_an_airflow_pool() -> None:
    objects = render_chart(values=LISTS)
    told = platform(objects)
    assert told["poolLists"] == {
        "cheapest": {"pools": ["spot", "ondemand"], "airflowPool": "gpu-cheapest", "queue": "cheapest"}
    }
    assert "poolLists" not in platform(render_chart(values=ON))
    (job,) = (
        each for each in objects if each["kind"] == "Job" and "airflow-pools" in each["metadata"]["name"]
    )
    env = {
        each["name"]: each.get("value") for each in job["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    (pool,) = (each for each in json.loads(env["POOLS"]) if each["name"] == "gpu-cheapest")
    assert pool["slots"] == 2


def test_a_list_that_another_file_takes_away_is_gone() -> None:
    objects = render_chart(values={**ON, "gpuPoolLists": {"cheapest": None}})
    assert objects == render_chart(values=ON)


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
