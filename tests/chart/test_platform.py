"""Everything about a GPU pool comes from its one entry in gpuPools."""

from __future__ import annotations

import json
from pathlib import Path

from render import Object, containers, environment, find, platform, pod_spec, render_chart

ROOT = Path(__file__).parents[2]

A100 = {
    "gpuType": "nvidia-a100",
    "resourceName": "nvidia.com/gpu",
    "gpusPerNode": 8,
    "spot": True,
    "labels": {"topology.kubernetes.io/zone": "a"},
    "taints": [{"key": "team", "value": "vision", "effect": "NoExecute"}],
    "nodes": {"min": 0, "max": 3},
    "costPerGpuHour": 2.5,
}


def airflow_pools(objects: list[Object]) -> dict[str, Object]:
    job = find(objects, "Job", "trainyard-airflow-pools")
    return {pool["name"]: pool for pool in json.loads(environment(containers(job)[0])["POOLS"])}


def gpu_quota(objects: list[Object]) -> Object:
    hard = find(objects, "ResourceQuota", "trainyard-training")["spec"]["hard"]
    return {key: amount for key, amount in hard.items() if key != "pods"}


def test_default_pools() -> None:
    objects = render_chart()
    spot = platform(objects)["pools"]["spot"]
    assert spot["nodeSelector"] == {"trainyard.dev/pool": "spot"}
    assert [toleration["key"] for toleration in spot["tolerations"]] == [
        "nvidia.com/gpu",
        "trainyard.dev/spot",
    ]
    assert gpu_quota(objects) == {"requests.nvidia.com/gpu": "2"}
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
        "gpuType": "nvidia-a100",
        "spot": True,
        "costPerGpuHour": 2.5,
        "nodeSelector": {"trainyard.dev/pool": "a100", "topology.kubernetes.io/zone": "a"},
        "tolerations": [
            {"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"},
            {"key": "trainyard.dev/spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
            {"key": "team", "operator": "Equal", "value": "vision", "effect": "NoExecute"},
        ],
    }
    assert gpu_quota(objects) == {"requests.nvidia.com/gpu": str(2 + 1 + 24)}
    pool = airflow_pools(objects)["gpu-a100"]
    assert (pool["slots"], pool["include_deferred"]) == (24, True)
    simulator = find(objects, "DaemonSet", "trainyard-nvidia-device-plugin-a100")
    assert environment(containers(simulator)[0])["GPU_COUNT"] == "8"
    assert pod_spec(simulator)["nodeSelector"] == {"trainyard.dev/pool": "a100"}


def test_a_removed_pool_is_nowhere() -> None:
    objects = render_chart(values={"gpuPools": {"spot": None}})
    assert list(platform(objects)["pools"]) == ["ondemand"]
    assert gpu_quota(objects) == {"requests.nvidia.com/gpu": "1"}
    assert list(airflow_pools(objects)) == ["gpu-ondemand"]


def test_resources_of_different_names_have_quotas_of_their_own() -> None:
    objects = render_chart(values={"gpuPools": {"amd": {**A100, "resourceName": "amd.com/gpu"}}})
    assert gpu_quota(objects) == {"requests.nvidia.com/gpu": "2", "requests.amd.com/gpu": "24"}


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
    from trainyard.platform import load_platform

    file = tmp_path / "platform.json"
    for values in ("kind.yaml", "production.yaml"):
        config = find(render_chart(files=(values,)), "ConfigMap", "trainyard-platform")
        file.write_text(config["data"]["platform.json"])
        assert set(load_platform(file).pools) == {"ondemand", "spot"}


def test_the_dag_tests_use_what_the_chart_renders() -> None:
    """tests/dags/platform.json stands for the ConfigMap where no chart is rendered."""
    fixture = json.loads((ROOT / "tests/dags/platform.json").read_text())
    rendered = platform(render_chart(files=("kind.yaml",)))
    fixture["training"]["image"] = rendered["training"]["image"]
    assert fixture == rendered
