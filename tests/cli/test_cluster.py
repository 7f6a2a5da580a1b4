"""The cluster's pure logic: kind's configuration from values, capability trimming, content hashes."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from trainyard_cli import bounded_runc, chart, cluster, node_image, toolchain
from trainyard_cli.errors import CliError

POOLS = json.loads((Path(__file__).parents[1] / "dags/platform.json").read_text())["pools"]
"""The pools as the chart renders them with values/kind.yaml; tests/chart compares the file with a render."""


def config(pools=POOLS, ports=None):
    return cluster.kind_config(pools, "node:tag", ports or cluster.Ports())


def taints(node):
    (patch,) = node["kubeadmConfigPatches"]
    return yaml.safe_load(patch)["nodeRegistration"]["taints"]


def test_the_repository_values_give_the_five_nodes():
    assert cluster.node_names(POOLS) == {
        "control-plane": ["trainyard-control-plane"],
        "cpu": ["trainyard-worker"],
        "ondemand": ["trainyard-worker2", "trainyard-worker3"],
        "spot": ["trainyard-worker4"],
    }


def test_each_pool_has_its_labelled_and_tainted_nodes():
    control_plane, cpu, *ondemand, spot = config()["nodes"]
    assert control_plane["role"] == "control-plane"
    assert cpu["labels"] == {"trainyard.dev/role": "cpu"}
    assert "kubeadmConfigPatches" not in cpu
    assert len(ondemand) == POOLS["ondemand"]["kindNodes"] == 2
    for node in ondemand:
        assert node["labels"] == {"trainyard.dev/pool": "ondemand", "trainyard.dev/gpu-type": "nvidia-l4"}
        assert taints(node) == POOLS["ondemand"]["taints"]
    assert spot["labels"]["trainyard.dev/pool"] == "spot"
    assert {taint["key"] for taint in taints(spot)} == {"nvidia.com/gpu", "trainyard.dev/spot"}


def test_a_pool_may_have_no_kind_nodes():
    pools = {"cloud-only": {**POOLS["spot"], "kindNodes": 0}}
    assert cluster.node_names(pools)["cloud-only"] == []
    assert len(config(pools)["nodes"]) == 2


def test_a_cluster_may_have_no_gpu_pool():
    assert set(cluster.node_names({})) == {"control-plane", "cpu"}
    assert len(config({})["nodes"]) == 2


def test_a_pool_may_be_named_like_a_number():
    pools = {"4090": {**POOLS["spot"], "nodeLabels": {"trainyard.dev/pool": "4090"}}}
    written = yaml.safe_load(yaml.safe_dump(config(pools)))
    assert written["nodes"][-1]["labels"] == {"trainyard.dev/pool": "4090"}


@pytest.mark.parametrize("name", ["cpu", "control-plane"])
def test_a_pool_is_not_named_as_another_kind_of_node(name):
    with pytest.raises(CliError, match=rf"values: gpuPools\.{name} is no pool name") as error:
        cluster.check_names({"spot": {}, name: {}})
    assert error.value.cure
    cluster.check_names(POOLS)


def test_ports_are_forwarded_on_loopback_only():
    forwarded = config(ports=cluster.Ports(airflow=18080, mlflow=15000))["nodes"][0]["extraPortMappings"]
    assert forwarded == [
        {"containerPort": 30080, "hostPort": 18080, "listenAddress": "127.0.0.1"},
        {"containerPort": 30500, "hostPort": 15000, "listenAddress": "127.0.0.1"},
    ]


def test_a_cluster_keeps_its_ports_unless_others_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONFIG", tmp_path / "kind.yaml")
    assert cluster.chosen_ports(None, 5001) == cluster.Ports(airflow=8080, mlflow=5001)
    made = config(ports=cluster.Ports(airflow=8081, mlflow=5001))
    cluster.CONFIG.write_text(yaml.safe_dump(made))
    assert cluster.chosen_ports(None, None) == cluster.Ports(airflow=8081, mlflow=5001)
    assert cluster.chosen_ports(8082, None) == cluster.Ports(airflow=8082, mlflow=5001)


def test_every_worker_mounts_the_shared_volumes():
    for worker in config()["nodes"][1:]:
        assert [mount["containerPath"] for mount in worker["extraMounts"]] == ["/var/trainyard/shared"]


def test_the_configuration_survives_being_written_and_read():
    written = yaml.safe_dump(config(), sort_keys=False)
    assert yaml.safe_load(written) == config()


@pytest.mark.parametrize("text", ["a: [", "- a list"])
def test_a_malformed_values_file_is_named(tmp_path, text):
    file = tmp_path / "values.yaml"
    file.write_text(text)
    with pytest.raises(CliError, match=str(file)):
        chart.read_values([file])


def test_a_missing_values_file_is_named(tmp_path):
    with pytest.raises(CliError, match=r"absent\.yaml is missing"):
        chart.read_values([tmp_path / "absent.yaml"])


def test_values_merge_as_helm_merges_them():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert chart.merge(base, {"a": {"c": [3], "e": {"f": 2}}, "d": None}) == {
        "a": {"b": 1, "c": [3], "e": {"f": 2}}
    }


def test_only_ready_nodes_with_a_fresh_lease_count():
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def node(name, ready="True"):
        return {"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}

    def lease(name, age):
        renewed = (now - timedelta(seconds=age)).isoformat().replace("+00:00", "Z")
        return {"metadata": {"name": name}, "spec": {"renewTime": renewed}}

    nodes = {"items": [node("good"), node("stale"), node("unready", "False")]}
    leases = {"items": [lease("good", 5), lease("stale", 300), lease("unready", 5)]}
    assert cluster.unready_nodes({"good"}, nodes, leases, now) == ""
    problem = cluster.unready_nodes({"good", "stale", "unready", "gone"}, nodes, leases, now)
    assert problem == "not ready: gone, stale, unready"


ALL_BITS = (1 << 41) - 1


def status(bits):
    return f"Name:\trunc\nCapBnd:\t{bits:016x}\nSeccomp:\t0\n"


def test_capabilities_are_named_in_the_kernels_order():
    assert bounded_runc.granted(status(1 << 24)) == {"CAP_SYS_RESOURCE"}
    assert bounded_runc.granted(status(1 << 40)) == {"CAP_CHECKPOINT_RESTORE"}
    assert bounded_runc.missing(status(ALL_BITS), 40) == set()
    assert bounded_runc.missing(status(ALL_BITS & ~(1 << 24)), 40) == {"CAP_SYS_RESOURCE"}


def test_a_capability_that_the_kernel_does_not_know_is_not_missing():
    assert bounded_runc.missing(status((1 << 38) - 1), 37) == set()


def test_trimming_drops_only_what_is_not_granted():
    process = {"capabilities": {"bounding": ["CAP_SYS_RESOURCE", "CAP_CHOWN"], "effective": ["CAP_CHOWN"]}}
    bounded_runc.trim(process, {"CAP_CHOWN"})
    assert process == {"capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"]}}


def test_a_process_without_capabilities_stays_as_it_is():
    process = {"args": ["true"]}
    bounded_runc.trim(process, set())
    assert process == {"args": ["true"]}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    monkeypatch.setattr(toolchain, "GO_MODULES", tmp_path)
    (tmp_path / "helm").mkdir()
    (tmp_path / "helm/go.mod").write_text("module m\n\ntool a.b/c/cmd/d\n\nrequire (\n\ta.b/c v1.2.3\n)\n")
    return tmp_path


def test_a_module_is_hashed_by_its_files(modules):
    before = toolchain.content_hash("helm")
    assert before == toolchain.content_hash("helm")
    assert len(before) == 12
    (modules / "helm/go.sum").write_text("a.b/c v1.2.3 h1:x=\n")
    assert toolchain.content_hash("helm") != before


def test_a_version_is_read_from_the_tools_requirement(modules):
    assert toolchain.version("helm") == "v1.2.3"


def test_a_module_without_its_tools_version_is_refused(modules):
    (modules / "helm/go.mod").write_text("module m\n")
    with pytest.raises(CliError, match=r"helm/go\.mod names no version"):
        toolchain.version("helm")


def test_the_node_image_is_hashed_by_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(node_image, "SOURCE", tmp_path)
    before = node_image.content_hash()
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    assert node_image.content_hash() != before


def test_releases_are_those_of_the_locked_versions():
    for name, module in {"kind": "kind", "helm": "helm", "kubectl": "kubernetes"}.items():
        assert toolchain.version(module) in toolchain.releases()[name].url


def test_components_are_found_by_name():
    listing = "registry.k8s.io/kube-proxy:v1.35.4\nregistry.k8s.io/coredns/coredns:v1.13.1\n"
    assert node_image.component_images(listing) == {
        "kube-proxy": "registry.k8s.io/kube-proxy:v1.35.4",
        "coredns": "registry.k8s.io/coredns/coredns:v1.13.1",
    }


def test_each_team_has_shared_volumes_of_its_own() -> None:
    values = chart.read_values(chart.VALUES)
    before = cluster.shared_volumes(values)
    after = cluster.shared_volumes({**values, "teams": {"vision": {"namespace": "ml-vision", "dags": []}}})
    assert after[: len(before)] == before
    claims = {
        (one["spec"]["claimRef"]["namespace"], one["spec"]["claimRef"]["name"]): one
        for one in after[len(before) :]
    }
    assert claims.keys() == {("ml-vision", "datasets"), ("ml-vision", "checkpoints")}
    paths = [one["spec"]["hostPath"]["path"] for one in after if one["kind"] == "PersistentVolume"]
    assert len(set(paths)) == len(paths), "nobody sees another team's data"


def test_debians_packages_come_from_where_this_machine_has_its_own(monkeypatch):
    """And not from a repository of another maker that has the same suites."""
    listed = (
        "https://mirror.example.com/debian/ bookworm Debian\n"
        "https://mirror.example.com/security/ bookworm-security Debian\n"
        "https://docker.example.com/linux/debian bookworm Docker\n"
        "https://nobody.example.com/debian bookworm-updates \n"
    )
    monkeypatch.setattr(node_image, "run", lambda *_, **__: SimpleNamespace(stdout=listed))
    assert node_image._debian_sources("trixie") == {
        "trixie": "https://mirror.example.com/debian/",
        "trixie-updates": "http://deb.debian.org/debian",
        "trixie-security": "https://mirror.example.com/security/",
    }
