"""What the values add to training pods and model servers: told to the DAG library, or refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import kubernetes_validate
import pytest
from made import REQUEST, TASK, loaded_platform
from render import ChartError, find, platform, render_chart
from trainyard.platform import Platform
from trainyard.serving.manifests import (
    DeployRequest,
    Record,
    build_deployment,
    build_disruption_budget,
    build_spec,
)
from trainyard.training.pod import build_pod
from trainyard_cli.versions import VERSIONS

POD = {
    "labels": {"azure.workload.identity/use": "true"},
    "annotations": {"example.com/team": "vision"},
    "env": [
        {"name": "HF_HOME", "value": "/cache"},
        {"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "token"}}},
    ],
    "envFrom": [{"configMapRef": {"name": "proxies"}}],
    "extraVolumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}}],
    "extraVolumeMounts": [{"name": "cache", "mountPath": "/cache"}],
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "tolerations": [{"key": "team", "operator": "Exists"}],
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "runtimeClassName": "nvidia",
    "scratchSize": "20Gi",
    "sharedMemorySize": "8Gi",
}


def told(tmp_path: Path, values: dict) -> Platform:
    return loaded_platform(render_chart(values=values), tmp_path)


def training_pod(platform: Platform, **request: object) -> dict:
    return build_pod(platform, replace(REQUEST, **request), TASK)


def assert_pod_has_all(template: dict) -> None:
    spec, (container,) = template["spec"], template["spec"]["containers"]
    assert template["metadata"]["labels"].items() >= POD["labels"].items()
    assert template["metadata"]["annotations"].items() >= POD["annotations"].items()
    for entry in POD["env"]:
        assert entry in container["env"]
    assert container["envFrom"] == POD["envFrom"]
    assert POD["extraVolumes"][0] in spec["volumes"]
    assert POD["extraVolumeMounts"][0] in container["volumeMounts"]
    for field in ("affinity", "topologySpreadConstraints", "runtimeClassName"):
        assert spec[field] == POD[field]
    assert spec["nodeSelector"].items() >= POD["nodeSelector"].items()
    assert POD["tolerations"][0] in spec["tolerations"]
    sizes = {
        volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"] if "emptyDir" in volume
    }
    assert sizes == {"tmp": "20Gi", "shm": "8Gi"}
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_training_pods_have_all_of_it(tmp_path: Path) -> None:
    pod = training_pod(told(tmp_path, {"training": {"pod": POD}}))
    kubernetes_validate.validate(pod, VERSIONS.kubernetes_minor, strict=True)
    assert_pod_has_all(pod)


def test_model_servers_have_all_of_it(tmp_path: Path) -> None:
    platform = told(tmp_path, {"serving": {"pod": POD}})
    spec = build_spec(platform, DeployRequest("digits", "1"))
    kubernetes_validate.validate(
        build_deployment(platform, "digits", spec, Record("digits", "1", "me")),
        VERSIONS.kubernetes_minor,
        strict=True,
    )
    assert_pod_has_all(spec["template"])


def test_a_pool_adds_to_what_all_pods_have(tmp_path: Path) -> None:
    pool = {
        "pod": {
            "env": [{"name": "HF_HOME", "value": "/fast"}],
            "labels": {"a": "b"},
            "sharedMemorySize": "64Gi",
        },
        "resources": {"limits": {"memory": "200Gi"}},
    }
    platform = told(tmp_path, {"training": {"pod": POD}, "gpuPools": {"spot": pool}})
    pod = training_pod(platform, gpu_pool="spot", scratch_size="100Gi")
    (container,) = pod["spec"]["containers"]
    assert {entry["name"]: entry.get("value") for entry in container["env"]}["HF_HOME"] == "/fast"
    assert pod["metadata"]["labels"].items() >= {**POD["labels"], "a": "b"}.items()
    assert pod["spec"]["nodeSelector"] == {"trainyard.dev/pool": "spot", "kubernetes.io/arch": "amd64"}
    assert {toleration["key"] for toleration in pod["spec"]["tolerations"]} == {
        *("team", "nvidia.com/gpu", "trainyard.dev/spot", "node.kubernetes.io/unreachable")
    }
    assert container["resources"]["limits"].items() >= {"cpu": "8", "memory": "200Gi"}.items()
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    volumes = {volume["name"]: volume.get("emptyDir") for volume in pod["spec"]["volumes"]}
    assert volumes["shm"] == {"medium": "Memory", "sizeLimit": "64Gi"}
    assert volumes["tmp"] == {"sizeLimit": "100Gi"}


def test_accounts_have_the_annotations_of_a_cloud_identity() -> None:
    annotations = {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/trainer"}
    values = {
        "training": {"serviceAccountAnnotations": annotations},
        "serving": {"serviceAccountAnnotations": annotations},
    }
    objects = render_chart(values=values)
    for name in ("trainer", "model-server"):
        assert find(objects, "ServiceAccount", name)["metadata"]["annotations"].items() >= annotations.items()


def test_each_model_has_a_disruption_budget_unless_it_is_off(tmp_path: Path) -> None:
    budget = build_disruption_budget(told(tmp_path, {}), "digits")
    assert budget is not None
    kubernetes_validate.validate(budget, VERSIONS.kubernetes_minor, strict=True)
    assert budget["spec"] == {
        "maxUnavailable": 1,
        "selector": {
            "matchLabels": {"app.kubernetes.io/name": "model-server", "app.kubernetes.io/instance": "digits"}
        },
    }
    own = {"podDisruptionBudget": {"config": {"minAvailable": 1}}}
    assert platform(render_chart(values={"serving": own}))["serving"]["podDisruptionBudget"] == {
        "minAvailable": 1
    }
    off = told(tmp_path, {"serving": {"podDisruptionBudget": {"enabled": False}}})
    assert build_disruption_budget(off, "digits") is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"training": {"pod": {"extraVolumes": [{"name": "tmp", "emptyDir": {}}]}}},
            "training.pod.extraVolumes: there is a volume tmp already",
        ),
        (
            {"training": {"pod": {"extraVolumeMounts": [{"name": "cache", "mountPath": "/cache"}]}}},
            "training.pod.extraVolumeMounts: there is no volume cache; add it",
        ),
        (
            {"training": {"pod": {"extraVolumeMounts": [{"name": "tmp", "mountPath": "/data/x"}]}}},
            "/data/x overlaps with /data of training.volumes.datasets.mountPath",
        ),
        (
            {
                "training": {"pod": {k: POD[k] for k in ("extraVolumes", "extraVolumeMounts")}},
                "gpuPools": {"spot": {"pod": {"extraVolumes": POD["extraVolumes"]}}},
            },
            "gpuPools.spot.pod.extraVolumes: there is a volume cache already",
        ),
        (
            {
                "training": {"pod": {k: POD[k] for k in ("extraVolumes", "extraVolumeMounts")}},
                "gpuPools": {
                    "spot": {"pod": {"extraVolumeMounts": [{"name": "cache", "mountPath": "/cache/a"}]}}
                },
            },
            "gpuPools.spot.pod.extraVolumeMounts: /cache/a overlaps with /cache of training.pod.",
        ),
        (
            {"serving": {"pod": {"extraVolumes": [{"emptyDir": {}}], "extraVolumeMounts": [{"name": "a"}]}}},
            "serving.pod.extraVolumeMounts: every entry needs name and mountPath",
        ),
        (
            {"serving": {"pod": {"labels": {"app.kubernetes.io/name": "mine"}}}},
            "serving.pod.labels: app.kubernetes.io/name is the platform's own",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(values: dict, expected: str) -> None:
    with pytest.raises(ChartError) as refused:
        render_chart(values=values)
    assert expected in str(refused.value)
