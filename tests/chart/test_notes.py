"""What helm tells after an install: where the pages are, and which choices are not for real use."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

import pytest
from render import CHART, Object, find, render_chart
from trainyard_cli.chart import merge

# What stands in values/production.yaml as a placeholder, filled in; a registry of one's own for all images.
FILLED_IN: Object = {"global": {"imageRegistry": "registry.corp.internal"}}
SHOW = """
apiVersion: v1
kind: ConfigMap
metadata: {name: notes, namespace: trainyard, labels: {app.kubernetes.io/name: notes}}
data:
  notes: {{ include (print $.Template.BasePath "/NOTES.txt") . | toJson }}
"""


@functools.cache
def chart_that_shows_its_notes() -> Path:
    """A copy of the chart with one more object: `helm template` renders NOTES.txt, and prints it never."""
    copy = Path(tempfile.mkdtemp()) / "trainyard"
    shutil.copytree(CHART, copy, symlinks=False)
    (copy / "templates/notes.yaml").write_text(SHOW)
    return copy


def notes(*files: str, values: Object | None = None, apis: tuple[str, ...] = ()) -> str:
    objects = render_chart(files=files, values=values, chart=chart_that_shows_its_notes(), apis=apis)
    return str(find(objects, "ConfigMap", "notes")["data"]["notes"])


def warnings(*files: str, values: Object | None = None, apis: tuple[str, ...] = ()) -> list[str]:
    _, _, listed = notes(*files, values=values, apis=apis).partition("\nUnsafe for real use\n")
    return [line.strip().removeprefix("- ") for line in listed.splitlines()]


@pytest.mark.parametrize("more", [(), ("object-storage.yaml",), ("eks.yaml",), ("aks.yaml",)])
def test_production_is_safe_once_it_is_filled_in(more: tuple[str, ...]) -> None:
    assert warnings("production.yaml", *more, values=FILLED_IN) == []


def test_on_gke_as_well() -> None:
    assert warnings("production.yaml", "gke.yaml", values=FILLED_IN, apis=("cloud.google.com/v1",)) == []


def test_as_it_stands_each_of_its_images_is_named() -> None:
    found = warnings("production.yaml")
    assert {line.partition(":")[0] for line in found} == {
        *("training.image", "airflow.images.airflow", "airflow.dags.image", "mlflow.image", "versitygw.image")
    }
    assert all("is a placeholder; name your registry" in line for line in found)


def test_the_trial_on_kind_is_warned_of_an_open_mlflow_alone() -> None:
    assert warnings("kind.yaml") == []
    (warning,) = warnings("kind.yaml", values={"mlflow": {"auth": {"enabled": False}}})
    assert warning.startswith("mlflow.auth.enabled: MLflow asks nobody for a login")


PASSWORD = {"host": "db", "user": "airflow", "pass": "postgres"}
ADMIN = [
    {"name": "ADMIN_USERNAME", "value": "admin"},
    {"name": "ADMIN_PASSWORD", "value": "admin"},
]
PLAIN: Object = {"hosts": [{"name": "a.corp.internal"}]}


def budget(**config: int | str) -> Object:
    return {"podDisruptionBudget": {"enabled": True, "config": config}}


ROUTE: Object = {
    "enabled": True,
    "parentRefs": [{"name": "gateway"}],
    "hostnames": ["a.corp.internal", "b.corp.internal"],
}
ZEROS = "sha256:" + 64 * "0"


@pytest.mark.parametrize(
    ("values", "key", "says"),
    [
        pytest.param(
            {"airflow": {"data": {"metadataConnection": PASSWORD}}},
            "airflow.data.metadataConnection.pass",
            "stands in your values, and is one that everybody tries first",
            id="default password",
        ),
        pytest.param(
            {"airflow": {"createUserJob": {"env": ADMIN}}},
            "airflow.createUserJob.env",
            "ADMIN_PASSWORD stands in your values",
            id="password in values",
        ),
        pytest.param(
            {"airflow": {"ingress": {"apiServer": PLAIN}}},
            "airflow.ingress.apiServer",
            "a.corp.internal has no TLS",
            id="Airflow without TLS",
        ),
        pytest.param(
            {"airflow": {"apiServer": {"service": {"type": "LoadBalancer"}}}},
            "airflow.apiServer.service.type",
            "a LoadBalancer has no TLS",
            id="Airflow behind a LoadBalancer",
        ),
        pytest.param(
            {"versitygw": {"ingress": {"enabled": True, "host": "s3.corp.internal"}}},
            "versitygw.ingress",
            "s3.corp.internal has no TLS",
            id="object store without TLS",
        ),
        pytest.param(
            {"versitygw": {"service": {"type": "LoadBalancer"}}},
            "versitygw.service.type",
            "a LoadBalancer has no TLS",
            id="object store behind a LoadBalancer",
        ),
        pytest.param(
            {
                "mlflow": {
                    "auth": {"enabled": False},
                    "ingress": {"enabled": True, "host": "m.corp.internal", "tlsSecretName": "m-tls"},
                }
            },
            "mlflow.auth.enabled",
            "whoever reaches m.corp.internal may read, change and delete every model",
            id="open MLflow",
        ),
        pytest.param(
            {"mlflow": {"auth": {"enabled": False}, "httpRoute": ROUTE}},
            "mlflow.auth.enabled",
            "whoever reaches a.corp.internal or b.corp.internal may read, change and delete every model",
            id="open MLflow behind a Gateway",
        ),
        pytest.param(
            {"mlflow": {"httpRoute": {**ROUTE, "tls": False}}},
            "mlflow.httpRoute.tls",
            "passwords go to a.corp.internal, b.corp.internal in the clear",
            id="MLflow behind a Gateway without TLS",
        ),
        pytest.param(
            {"mlflow": budget(minAvailable=2)},
            "mlflow.podDisruptionBudget.config.minAvailable",
            "2 of 2 lets no pod go, so that its node cannot be drained; lower it, or have more replicas",
            id="budget for every pod",
        ),
        pytest.param(
            {"airflow": {"apiServer": {"hpa": {"enabled": True}, **budget(minAvailable="50%")}}},
            "airflow.apiServer.podDisruptionBudget.config.minAvailable",
            "50% of 1 lets no pod go",
            id="budget for the fewest pods of an autoscaler",
        ),
        pytest.param(
            {"airflow": {"triggerer": budget(maxUnavailable="0%")}},
            "airflow.triggerer.podDisruptionBudget.config.maxUnavailable",
            "0% of 2 lets no pod go, so that its node cannot be drained; raise it",
            id="budget of nothing",
        ),
        pytest.param(
            {
                "airflow": {
                    "pgbouncer": {"enabled": True, "configSecretName": "own", **budget(minAvailable=1)}
                }
            },
            "airflow.pgbouncer.podDisruptionBudget.config.minAvailable",
            "1 of 1 lets no pod go",
            id="budget for every PgBouncer",
        ),
        pytest.param(
            {"global": {"databaseTls": {"mode": "require", "caSecretName": ""}}},
            "global.databaseTls.mode",
            "nobody checks whose server it is; set verify-full",
            id="database that nobody checks",
        ),
        pytest.param(
            {"training": {"image": {"digest": ZEROS}}},
            "training.image",
            "is a placeholder; give the digest",
            id="digest of zeros",
        ),
        pytest.param(
            {"networkPolicies": {"enabled": False}},
            "networkPolicies.enabled",
            "training pods reach everything",
            id="no NetworkPolicies",
        ),
        pytest.param(
            {"postgresql": {"enabled": True}, "global": {"databaseTls": {"mode": "", "caSecretName": ""}}},
            "postgresql.enabled",
            "without a backup",
            id="embedded database",
        ),
    ],
)
def test_an_unsafe_choice_is_named_with_the_cure(values: Object, key: str, says: str) -> None:
    (warning,) = warnings("production.yaml", values=merge(FILLED_IN, values))
    assert warning.startswith(f"{key}: ") and says in warning


@pytest.mark.parametrize(
    ("api", "owner"),
    [("cloud.google.com/v1", "GKE"), ("nvidia.com/v1/ClusterPolicy", "NVIDIA's GPU operator")],
)
def test_a_second_device_plugin_is_named_where_the_cluster_has_one(api: str, owner: str) -> None:
    (warning,) = warnings("production.yaml", values=FILLED_IN, apis=(api,))
    assert warning.startswith(f"nvidia-device-plugin.enabled: {owner}, which is in this cluster, runs a")


def test_images_without_a_registry_are_named() -> None:
    assert [line for line in warnings() if line.startswith("mlflow.image: trainyard/mlflow:")]
    mirror = warnings(values=FILLED_IN)
    assert not [line for line in mirror if "image" in line.partition(":")[0]]


def test_the_page_of_mlflow_is_where_its_route_leads() -> None:
    assert "\n  page:      https://a.corp.internal\n" in notes(values={"mlflow": {"httpRoute": ROUTE}})


def test_a_budget_that_lets_a_pod_go_is_no_warning() -> None:
    hpa = {"hpa": {"enabled": True, "minReplicaCount": 2}}
    airflow = {
        "apiServer": {"replicas": 1, **hpa, **budget(minAvailable=1)},
        "scheduler": budget(),
        "triggerer": {"replicas": 3, **budget(minAvailable="66%")},
        "dagProcessor": budget(maxUnavailable="1%"),
    }
    assert warnings("production.yaml", values=merge(FILLED_IN, {"airflow": airflow})) == []
