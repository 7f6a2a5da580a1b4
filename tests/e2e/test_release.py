"""The release as installed: it is up, agrees with the pools, and an upgrade without change does nothing."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import NAMESPACE, ROOT, up
from kubernetes import client
from pods import pods_that_stay, wait_until
from pytest_helm_charts.clusters import Cluster
from pytest_helm_charts.k8s.deployment import wait_for_deployments_to_run
from pytest_helm_charts.k8s.stateful_set import wait_for_stateful_sets_to_run
from trainyard_cli.airflow_api import Airflow

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
