"""The command line makes kind's nodes of the pools that the chart renders, and names a wrong key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from render import HELM, platform, render_chart
from trainyard_cli import chart, cluster, kueue, local, paths, release
from trainyard_cli.errors import CliError

ONE_POOL = """
gpuPools:
  ondemand: null
  spot: null
  4090:
    {gpuType: 4090, resourceName: nvidia.com/gpu, gpusPerNode: 2, spot: true, nodes: {max: 3}, kindNodes: 3,
     costPerGpuHour: 1, taints: [{key: team, effect: NoExecute}]}
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "STATE", tmp_path / "state")


@pytest.fixture
def helm() -> Path:
    found = shutil.which(HELM)
    assert found, "helm is not on the PATH"
    return Path(found)


def write(folder: Path, text: str) -> list[Path]:
    file = folder / "mine.yaml"
    file.write_text(text)
    return [file]


def test_the_nodes_are_those_of_the_rendered_pools(helm: Path) -> None:
    pools = chart.gpu_pools(helm, [])
    assert pools == platform(render_chart(files=("kind.yaml",)))["pools"]
    nodes = cluster.kind_config(pools, "node:tag", cluster.Ports())["nodes"]
    assert [node.get("labels", {}).get("trainyard.dev/pool") for node in nodes] == [
        *(None, None),
        *("ondemand", "ondemand", "spot"),
    ]


def test_another_files_pools_are_merged_as_helm_merges_them(helm: Path, tmp_path: Path) -> None:
    files = write(tmp_path, ONE_POOL)
    release.checked_pools(helm, files)
    pools = chart.gpu_pools(helm, files)
    assert list(pools) == ["4090"]
    *_, node = cluster.kind_config(pools, "node:tag", cluster.Ports())["nodes"]
    assert node["labels"] == {"trainyard.dev/pool": "4090", "trainyard.dev/gpu-type": "4090"}
    taints = yaml.safe_load(node["kubeadmConfigPatches"][0])["nodeRegistration"]["taints"]
    assert [taint["key"] for taint in taints] == ["nvidia.com/gpu", "trainyard.dev/spot", "team"]
    assert len(cluster.node_names(pools)["4090"]) == 3


def test_kueue_is_installed_unless_the_values_turn_queues_off(helm: Path, tmp_path: Path) -> None:
    assert kueue.is_wanted(release.checked_pools(helm, []).values())
    assert kueue.is_wanted(release.checked_pools(helm, write(tmp_path, ONE_POOL)).values())
    off = write(tmp_path, "queues: {kueue: {enabled: false}}")
    assert not kueue.is_wanted(release.checked_pools(helm, off).values())


def test_without_a_cluster_nothing_is_queued_for(
    helm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "DIRECTORY", tmp_path)
    pools = json.loads(local.platform_file(helm, "trainer:1", "http://localhost:1").read_text())["pools"]
    assert pools and not [name for name, pool in pools.items() if "queue" in pool]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        # Helm names them in any order.
        (
            "gpuPools: {spot: {kindNodes: 11, spot: 'yes', taints: {key: b}}}",
            "(?s)(?=.*/spot/kindNodes')(?=.*/spot/spot')(?=.*/spot/taints')",
        ),
        ("{gpuPools: {spot: null}, training: {defaultPool: spot}}", r"training\.defaultPool: .*ondemand"),
        (ONE_POOL.replace("4090:", "cpu:", 1), r"gpuPools\.cpu is no pool name"),
    ],
)
def test_the_error_names_a_wrong_key(helm: Path, tmp_path: Path, text: str, key: str) -> None:
    files = write(tmp_path, text)
    with pytest.raises(CliError, match=key) as error:
        release.checked_pools(helm, files)
    assert "is no pool name" in str(error.value) or str(files[0]) in error.value.cure
    assert "state/values.yaml" not in error.value.cure
