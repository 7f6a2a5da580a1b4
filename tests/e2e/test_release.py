"""The release as installed: it is up, agrees with the pools, and an upgrade without change does nothing."""

from __future__ import annotations

import functools
import ipaddress
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import NAMESPACE, ROOT, up
from kubernetes import client
from pods import if_there, pods_that_stay, wait_until
from pytest_helm_charts.clusters import Cluster
from pytest_helm_charts.k8s.deployment import wait_for_deployments_to_run
from pytest_helm_charts.k8s.stateful_set import wait_for_stateful_sets_to_run
from trainyard_cli.airflow_api import Airflow
from trainyard_cli.chart import merge

pytestmark = pytest.mark.alone

DEPLOYMENTS = [
    f"trainyard-{name}" for name in ("api-server", "scheduler", "dag-processor", "triggerer", "mlflow")
]


def test_every_workload_is_available(kube_cluster: Cluster) -> None:
    wait_for_deployments_to_run(kube_cluster.kube_client, DEPLOYMENTS, NAMESPACE, timeout_sec=60)
    wait_for_stateful_sets_to_run(
        kube_cluster.kube_client, ["trainyard-postgresql"], NAMESPACE, timeout_sec=60
    )


def test_airflow_pools_have_a_slot_for_each_gpu(airflow: Airflow, platform: dict[str, Any]) -> None:
    pools = {pool["name"]: pool for pool in airflow.get("/api/v2/pools")["pools"]}
    for pool in platform["pools"].values():
        found = pools[pool["airflowPool"]]
        assert found["slots"] >= pool["gpusPerNode"]
        assert found["include_deferred"], "a task that waits in the triggerer must count"


def test_every_dag_file_is_read_without_error(airflow: Airflow) -> None:
    files = {file.stem for file in (ROOT / "dags").glob("*.py")}
    models = {f"{file.stem}_training" for file in (ROOT / "dags/models").glob("*.yaml")}

    def read() -> bool:
        errors = airflow.get("/api/v2/importErrors")["import_errors"]
        return errors == [] and {dag["dag_id"] for dag in airflow.dags()} == files | models

    # A release that had other DAGs until now: they go when the dag-processor looks for stale ones.
    wait_until("all DAGs, no other one and no error", read, seconds=180)


def test_an_upgrade_that_changes_nothing_restarts_nothing(core: client.CoreV1Api) -> None:
    before = pods_that_stay(core, NAMESPACE), _secrets(core)
    up()
    assert (pods_that_stay(core, NAMESPACE), _secrets(core)) == before


CHANGES = {
    "postgresql.persistence.storageClassName: the StatefulSet trainyard-postgresql has the cluster": {
        "postgresql": {"persistence": {"storageClassName": "fast"}}
    },
    "postgresql.persistence.size: the StatefulSet trainyard-postgresql has 2Gi, which": {
        "postgresql": {"persistence": {"size": "3Gi"}}
    },
    "mlflow.artifacts.persistence.accessMode: the claim trainyard-mlflow-artifacts has ReadWriteOnce": {
        "mlflow": {"artifacts": {"persistence": {"accessMode": "ReadWriteMany"}}}
    },
    "mlflow.artifacts.persistence.size: the claim trainyard-mlflow-artifacts has 5Gi, and volumes": {
        "mlflow": {"artifacts": {"persistence": {"size": "1Gi"}}}
    },
    "training.volumes.datasets.storageClassName: the claim datasets was made with trainyard-shared, which": {
        "training": {"volumes": {"datasets": {"storageClassName": ""}}}
    },
    "airflow.logs.persistence.storageClassName: the claim airflow-logs has trainyard-shared, which": {
        "airflow": {"logs": {"persistence": {"storageClassName": "fast"}}}
    },
    "airflow.logs.persistence.size: the claim airflow-logs has 5Gi, and its StorageClass trainyard-shared": {
        "airflow": {"logs": {"persistence": {"size": "6Gi"}}}
    },
    "priorityClasses.trainyard-spot.value: the class has ": {
        "priorityClasses": {"trainyard-spot": {"value": 7}}
    },
}


def test_what_kubernetes_does_not_change_is_refused_before_anything_changes(tmp_path: Path) -> None:
    refused = _dry_upgrade(tmp_path, functools.reduce(merge, CHANGES.values(), {}))
    assert f"{len(CHANGES)} bad value(s)" in refused.stderr
    assert [said for said in CHANGES if said not in refused.stderr] == []


def test_a_claim_may_grow_where_its_class_lets_it(core: client.CoreV1Api, tmp_path: Path) -> None:
    """A volume that somebody made is bound to it, and only sizes are looked at."""
    name = "e2e-grows"
    volume = {"claimName": name, "mountPath": "/e2e", "size": "2Gi", "storageClassName": name}
    claim = {
        "metadata": {
            "name": name,
            # Else Helm refuses it as somebody else's.
            "labels": {"app.kubernetes.io/managed-by": "Helm"},
            "annotations": {
                "meta.helm.sh/release-name": "trainyard",
                "meta.helm.sh/release-namespace": NAMESPACE,
            },
        },
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": name,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    storage = client.StorageV1Api()
    grows = {"metadata": {"name": name}, "provisioner": "example.com/none", "allowVolumeExpansion": True}
    made = {
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/e2e-grows"},
            "storageClassName": name,
        },
    }

    def bound() -> bool:
        found = core.read_namespaced_persistent_volume_claim(name, "ml-training")
        return found.status.phase == "Bound"

    storage.create_storage_class(grows)
    core.create_namespaced_persistent_volume_claim("ml-training", claim)
    try:
        unbound = _dry_upgrade(tmp_path, {"training": {"volumes": {"e2e": volume}}})
        assert f"training.volumes.e2e.size: the claim {name} asks for 1Gi and has no volume" in unbound.stderr
        core.create_persistent_volume(made)
        wait_until("the claim to be bound", bound)
        larger = _dry_upgrade(tmp_path, {"training": {"volumes": {"e2e": volume}}})
        assert larger.returncode == 0, larger.stderr
        smaller = _dry_upgrade(tmp_path, {"training": {"volumes": {"e2e": {**volume, "size": "500Mi"}}}})
        assert f"training.volumes.e2e.size: the claim {name} has 1Gi" in smaller.stderr
    finally:
        core.delete_namespaced_persistent_volume_claim(name, "ml-training")
        if_there(core.delete_persistent_volume, name)
        storage.delete_storage_class(name)


def _dry_upgrade(directory: Path, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Upgrade the release with further values, but change nothing."""
    release = ["trainyard", "--namespace", NAMESPACE]
    given = subprocess.run(
        ["helm", "get", "values", *release, "--output=yaml"], check=True, capture_output=True, text=True
    )
    file = directory / "values.yaml"
    file.write_text(yaml.safe_dump(merge(yaml.safe_load(given.stdout), values)))
    command = ["helm", "upgrade", *release, "--dry-run=server", "--values", str(file)]
    command.insert(3, str(ROOT / "charts/trainyard"))
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("namespace", ["trainyard", "ml-training"])
def test_pod_security_is_enforced(core: client.CoreV1Api, namespace: str) -> None:
    labels = core.read_namespace(namespace).metadata.labels
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    privileged = {
        "metadata": {"name": "e2e-privileged"},
        "spec": {"containers": [{"name": "c", "image": "x", "securityContext": {"privileged": True}}]},
    }
    with pytest.raises(client.ApiException, match="violates PodSecurity"):
        core.create_namespaced_pod(namespace, privileged)


def _secrets(core: client.CoreV1Api) -> dict[str, Any]:
    secrets = core.list_namespaced_secret(NAMESPACE).items
    return {s.metadata.name: s.data for s in secrets if s.type != "helm.sh/release.v1"}


# How a connection to an address fails, and after how many seconds.
CONNECT = """
import json, socket, time
start = time.monotonic()
try:
    socket.create_connection(({address!r}, 80), timeout=20).close()
    problem = ""
except OSError as error:
    problem = error.strerror or type(error).__name__
print(json.dumps([problem, time.monotonic() - start]))
"""


def test_the_address_of_a_pod_that_has_gone_leads_nowhere(
    core: client.CoreV1Api, in_component: Callable[[str, str], Any]
) -> None:
    """Where something outside of the cluster answers any connection, it would be taken for the pod."""
    if not core.list_namespaced_pod("kube-system", label_selector="app=node-routes").items:
        pytest.skip("the node image has another network than ours")
    (pod, *_) = core.list_namespaced_pod(NAMESPACE, label_selector="component=api-server").items
    used = {each.status.pod_ip for each in core.list_pod_for_all_namespaces().items}
    node = ipaddress.ip_network(core.read_node(pod.spec.node_name).spec.pod_cidr)
    free = next(str(address) for address in reversed(list(node.hosts())) if str(address) not in used)
    problem, seconds = in_component("api-server", CONNECT.format(address=free))
    assert "unreachable" in problem.lower() or problem == "No route to host", problem
    assert seconds < 10
