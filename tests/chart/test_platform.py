"""Everything about a GPU pool comes from its one entry in gpuPools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made import loaded_platform
from render import Object, containers, environment, find, platform, pod_spec, render_chart

ROOT = Path(__file__).parents[2]

A100 = {
    "gpuType": "nvidia-a100",
    "resourceName": "nvidia.com/gpu",
    "gpusPerNode": 8,
    "spot": True,
    "labels": {"topology.kubernetes.io/zone": "a"},
    "taints": [{"key": "team", "value": "vision", "effect": "NoExecute"}],
    "nodes": {"max": 3},
    "costPerGpuHour": 2.5,
}


ONLY_A100 = {"ondemand": None, "spot": None, "a100": {**A100, "spot": False}}
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
SPOT_TAINT = {"key": "trainyard.dev/spot", "value": "true", "effect": "NoSchedule"}


def airflow_pools(objects: list[Object]) -> dict[str, Object]:
    job = find(objects, "Job", "trainyard-airflow-pools")
    return {pool["name"]: pool for pool in json.loads(environment(containers(job)[0])["POOLS"])}


def test_default_pools() -> None:
    objects = render_chart()
    spot = platform(objects)["pools"]["spot"]
    assert spot["nodeSelector"] == {"trainyard.dev/pool": "spot"}
    assert [toleration["key"] for toleration in spot["tolerations"]] == [
        "nvidia.com/gpu",
        "trainyard.dev/spot",
    ]
    assert {name: pool["slots"] for name, pool in airflow_pools(objects).items()} == {
        "gpu-ondemand": 1,
        "gpu-spot": 1,
    }


def test_a_new_pool_is_everywhere() -> None:
    objects = render_chart(files=("kind.yaml",), values={"gpuPools": {"a100": A100}})
    placement = platform(objects)["pools"]["a100"]
    assert placement == {
        "airflowPool": "gpu-a100",
        "resourceName": "nvidia.com/gpu",
        "gpusPerNode": 8,
        "maxNodes": 3,
        "gpuType": "nvidia-a100",
        "spot": True,
        "costPerGpuHour": 2.5,
        "nodeSelector": {"trainyard.dev/pool": "a100", "topology.kubernetes.io/zone": "a"},
        "nodeLabels": {
            "trainyard.dev/pool": "a100",
            "trainyard.dev/gpu-type": "nvidia-a100",
            "topology.kubernetes.io/zone": "a",
        },
        "taints": [GPU_TAINT, SPOT_TAINT, *A100["taints"]],
        "tolerations": [{**taint, "operator": "Equal"} for taint in (GPU_TAINT, SPOT_TAINT, *A100["taints"])],
        "kindNodes": 1,
        "queue": "a100",
    }
    pool = airflow_pools(objects)["gpu-a100"]
    assert (pool["slots"], pool["include_deferred"]) == (24, True)
    simulator = find(objects, "DaemonSet", "trainyard-nvidia-device-plugin-a100")
    assert environment(containers(simulator)[0])["GPU_COUNT"] == "8"
    assert pod_spec(simulator)["nodeSelector"] == {"trainyard.dev/pool": "a100"}


@pytest.mark.parametrize("files", [(), ("kind.yaml",)])
def test_a_removed_pool_is_nowhere(files: tuple[str, ...]) -> None:
    objects = render_chart(
        files=files, values={"gpuPools": {"spot": None, "ondemand": {"kindNodes": 1, "nodes": {"max": 1}}}}
    )
    assert list(platform(objects)["pools"]) == ["ondemand"]
    assert list(airflow_pools(objects)) == ["gpu-ondemand"]


def test_gpus_have_no_quota_but_one_of_the_values() -> None:
    """What exceeds a quota is tried again after up to a minute; what waits for a node starts at once."""

    def quota(**training: Object) -> Object:
        objects = render_chart(values={"training": training})
        return find(objects, "ResourceQuota", "trainyard-training")["spec"]["hard"]

    assert quota() == {"pods": "200"}
    assert quota(quota={"requests.nvidia.com/gpu": 2}) == {"pods": "200", "requests.nvidia.com/gpu": "2"}


@pytest.mark.parametrize(
    ("values", "default", "spot"),
    [
        ({}, "ondemand", "spot"),
        ({"gpuPools": {"ondemand": None}}, "spot", "spot"),
        ({"gpuPools": {"spot": None}}, "ondemand", None),
        ({"gpuPools": {"a100": {**A100, "spot": False}, "aspot": A100}}, "a100", "aspot"),
        ({"gpuPools": ONLY_A100}, "a100", None),
        ({"gpuPools": None}, None, None),
        ({"training": {"defaultPool": "spot"}}, "spot", "spot"),
        (
            {"gpuPools": {"4090": A100}, "training": {"defaultPool": 4090, "defaultSpotPool": "4090"}},
            "4090",
            "4090",
        ),
    ],
    ids=str,
)
def test_the_default_pools_are_named_or_derived(values: Object, default: object, spot: object) -> None:
    training = platform(render_chart(values=values))["training"]
    assert (training["defaultPool"], training["defaultSpotPool"]) == (default, spot)


@pytest.mark.parametrize("files", [(), ("kind.yaml",)])
def test_a_cluster_may_have_no_gpu_pool(files: tuple[str, ...]) -> None:
    objects = render_chart(files=files, values={"gpuPools": None})
    assert platform(objects)["pools"] == {}
    names = {one["metadata"]["name"] for one in objects}
    assert not [name for name in names if name.startswith("trainyard-airflow-pools")]


@pytest.mark.parametrize("name", ["100", "4090"])
def test_a_name_may_look_like_a_number(name: str) -> None:
    pools = {"ondemand": None, "spot": None, name: {**A100, "gpuType": 4090}}
    objects = render_chart(files=("kind.yaml",), values={"gpuPools": pools})
    (pool,) = platform(objects)["pools"].values()
    assert pool["gpuType"] == pool["nodeLabels"]["trainyard.dev/gpu-type"] == "4090"
    assert pool["nodeSelector"]["trainyard.dev/pool"] == pool["nodeLabels"]["trainyard.dev/pool"] == name
    assert list(airflow_pools(objects)) == [pool["airflowPool"]] == [f"gpu-{name}"]
    simulator = find(objects, "DaemonSet", f"trainyard-nvidia-device-plugin-{name}")
    assert pod_spec(simulator)["nodeSelector"] == {"trainyard.dev/pool": name}


def test_training_may_have_volumes_of_its_own() -> None:
    volume = {"claimName": "team-data", "mountPath": "/team", "size": "1Gi"}
    values = {"training": {"volumes": {"team": volume, "old": {**volume, "create": False}}}}
    values["training"]["volumes"]["old"] |= {"claimName": "archive", "mountPath": "/archive"}
    objects = render_chart(values=values)
    mounted = platform(objects)["training"]["volumes"]
    assert set(mounted) == {"datasets", "checkpoints", "team", "old"}
    assert mounted["team"] == {"claimName": "team-data", "mountPath": "/team"}
    claim = find(objects, "PersistentVolumeClaim", "team-data")
    assert claim["metadata"]["namespace"] == "ml-training"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Gi"}},
    }
    assert "archive" not in {one["metadata"]["name"] for one in objects}


def test_training_section_follows_the_values() -> None:
    image = {"repository": "registry.example.com/trainer", "tag": "abc"}
    objects = render_chart(files=("kind.yaml",), values={"training": {"image": image}})
    training = platform(objects)["training"]
    assert training["image"] == "registry.example.com/trainer:abc"
    assert training["trackingUri"] == "http://trainyard-mlflow.trainyard.svc.cluster.local:5000"
    assert training["gpuDevice"] == "cpu"
    assert training["volumes"] == {
        "datasets": {"claimName": "datasets", "mountPath": "/data"},
        "checkpoints": {"claimName": "checkpoints", "mountPath": "/checkpoints"},
    }
    assert set(training["resources"]) == {"cpu", "gpu"}


def test_the_dag_library_can_read_it(tmp_path) -> None:
    for values in ("kind.yaml", "production.yaml"):
        assert set(loaded_platform(render_chart(files=(values,)), tmp_path).pools) == {"ondemand", "spot"}


def test_the_dag_tests_use_what_the_chart_renders() -> None:
    """tests/dags/platform.json stands for the ConfigMap where no chart is rendered."""
    fixture = json.loads((ROOT / "tests/dags/platform.json").read_text())
    rendered = platform(render_chart(files=("kind.yaml",)))
    fixture["training"]["image"] = rendered["training"]["image"]
    assert fixture == rendered
