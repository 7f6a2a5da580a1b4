"""Nodes of the clouds: what brings them has the labels, taints and limits that the chart's pools ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from render import platform, render_chart

ROOT = Path(__file__).parents[2]
CLOUDS = ("eks", "gke", "aks")
EFFECTS = {"NO_SCHEDULE": "NoSchedule", "NO_EXECUTE": "NoExecute"}


def pool(labels: Any, taints: Iterable[tuple[str, str, str]], *, spot: bool, nodes: int) -> dict[str, Any]:
    return {"labels": labels, "taints": set(taints), "spot": spot, "nodes": nodes}


def eks(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        group["name"]: pool(
            group["labels"],
            ((taint["key"], taint["value"], taint["effect"]) for taint in group["taints"]),
            spot=group.get("spot", False),
            nodes=group["maxSize"],
        )
        for group in manifest["managedNodeGroups"]
    }


def gke(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec, nodes = manifest["spec"], manifest["spec"]["nodeConfig"]
    taints = ((taint["key"], taint["value"], EFFECTS[taint["effect"]]) for taint in nodes["taint"])
    most = spec["autoscaling"]["totalMaxNodeCount"]
    name = manifest["metadata"]["name"].removeprefix("trainyard-")
    return {name: pool(nodes["labels"], taints, spot=nodes.get("spot", False), nodes=most)}


def aks(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = manifest["spec"]
    split = (taint.replace("=", ":").split(":") for taint in spec["nodeTaints"])
    spot = spec.get("scaleSetPriority") == "Spot"
    taints = ((key, value, effect) for key, value, effect in split)
    return {manifest["metadata"]["name"]: pool(spec["nodeLabels"], taints, spot=spot, nodes=spec["maxCount"])}


READ: dict[str, Callable[[dict[str, Any]], dict[str, dict[str, Any]]]] = {"eks": eks, "gke": gke, "aks": aks}


def merged_pools(cloud: str) -> dict[str, dict[str, Any]]:
    """The pools as values/production.yaml with the cloud's values has them."""
    told = platform(render_chart(files=("production.yaml", f"{cloud}.yaml")))["pools"]
    values = yaml.safe_load((ROOT / "values/production.yaml").read_text())["gpuPools"]
    return {
        name: pool(
            one["nodeLabels"],
            ((taint["key"], taint["value"], taint["effect"]) for taint in one["taints"]),
            spot=one["spot"],
            nodes=values[name]["nodes"]["max"],
        )
        for name, one in told.items()
    }


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_clouds_nodes_are_the_pools(cloud: str) -> None:
    documents = yaml.safe_load_all((ROOT / f"manifests/nodes/{cloud}.yaml").read_text())
    assert {name: nodes for one in documents for name, nodes in READ[cloud](one).items()} == merged_pools(
        cloud
    )


def node_pools(values: dict[str, Any], *files: str) -> dict[str, dict[str, Any]]:
    objects = render_chart(files=files, values={"karpenter": {"enabled": True, **values}})
    return {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "NodePool"}


def test_karpenter_makes_the_same_nodes() -> None:
    region = {"key": "topology.kubernetes.io/region", "operator": "In", "values": ["eu-central-1"]}
    specs = node_pools({"requirements": [region]}, "production.yaml", "eks.yaml")
    assert set(specs) == {"trainyard-ondemand", "trainyard-spot"}
    for name, expected in merged_pools("eks").items():
        template = specs[f"trainyard-{name}"]["template"]
        assert template["metadata"]["labels"] == expected["labels"]
        taints = {(taint["key"], taint["value"], taint["effect"]) for taint in template["spec"]["taints"]}
        assert taints == expected["taints"]
        assert specs[f"trainyard-{name}"]["limits"] == {"nvidia.com/gpu": expected["nodes"]}
        requirements = {one["key"]: one["values"] for one in template["spec"]["requirements"]}
        assert requirements["karpenter.sh/capacity-type"] == ["spot" if expected["spot"] else "on-demand"]
        assert requirements["topology.kubernetes.io/region"] == ["eu-central-1"]
        assert requirements["node.kubernetes.io/instance-type"][0] == "g6.2xlarge"
        assert template["spec"]["nodeClassRef"]["kind"] == "EC2NodeClass"


def test_karpenter_keeps_and_replaces_nodes_as_told() -> None:
    (spec, _) = node_pools({"consolidateAfter": "Never", "expireAfter": "720h"}).values()
    assert spec["disruption"] == {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "Never"}
    assert spec["template"]["spec"]["expireAfter"] == "720h"


def test_without_it_there_are_no_node_pools() -> None:
    assert all(one["kind"] != "NodePool" for one in render_chart())
