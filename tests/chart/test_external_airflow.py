"""With `airflow.enabled: false` the chart serves an Airflow that somebody has already."""

from __future__ import annotations

import json
from typing import Any

import pytest
from references import bootstrapped
from render import (
    POD_KINDS,
    Object,
    containers,
    environment,
    find,
    identity,
    platform,
    pod_spec,
    render_chart,
)

BOOTSTRAP = "trainyard-bootstrap-secrets"
TRIGGERER = "airflow-triggerer"
# Role -> its namespace: what the DAG library does with the Kubernetes API.
ROLES = {
    "trainyard-training-launcher": "ml-training",
    "trainyard-model-deployer": "ml-serving",
    "trainyard-maintenance": "trainyard",
}
OWN_MLFLOW = {"mlflow": {"enabled": False}, "training": {"trackingUri": "http://mlflow.example.com"}}
OWN_DATABASE = {"postgresql": {"enabled": False}}
OWN_OBJECT_STORE = {"versitygw": {"enabled": False}}


def render(namespace: str = "", **values: Any) -> list[Object]:
    """The chart beside an Airflow in `namespace` whose triggerer has a ServiceAccount of its own."""
    external = {"namespace": namespace, "serviceAccounts": [TRIGGERER]}
    return render_chart(values={"airflow": {"enabled": False}, "externalAirflow": external, **values})


def wanted_secrets(objects: list[Object]) -> set[tuple[str, str, str]]:
    """Namespace, name and key of everything that the bootstrap Job makes."""
    return {key for one in objects for key in bootstrapped(one)}


def referenced_secrets(objects: list[Object]) -> set[tuple[str, str, str]]:
    """Namespace, name and key of every Secret that a rendered pod needs."""
    found = set()
    for one in objects:
        if one["kind"] not in POD_KINDS:
            continue
        namespace = one["metadata"]["namespace"]
        for volume in pod_spec(one)["volumes"]:
            for source in (volume, *volume.get("projected", {}).get("sources", [])):
                for item in source.get("secret", {}).get("items", []):
                    name = source["secret"].get("secretName") or source["secret"]["name"]
                    found.add((namespace, name, item["key"]))
        for container in containers(one):
            assert "envFrom" not in container, identity(one)
            for value in environment(container).values():
                if isinstance(value, dict) and "secretKeyRef" in value:
                    reference = value["secretKeyRef"]
                    found.add((namespace, reference["name"], reference["key"]))
    return found


@pytest.mark.parametrize("namespace", ["", "airflow"])
def test_it_has_every_secret_that_it_needs(namespace: str) -> None:
    objects = render(namespace)
    wanted = wanted_secrets(objects)
    needed = referenced_secrets(objects)
    assert {name for _, name, _ in needed} >= {"trainyard-mlflow-backend", "trainyard-versitygw"}
    assert needed <= wanted
    assert (namespace or "trainyard", "trainyard-s3-connection", "connection") in wanted
    assert (namespace or "trainyard", "trainyard-promoter", "credentials") in wanted
    # Nothing for an Airflow that is not there.
    names = {name for _, name, _ in wanted}
    assert not names & {"trainyard-fernet-key", "trainyard-jwt-secret", "trainyard-airflow-metadata"}
    assert "trainyard-admin" not in names


@pytest.mark.parametrize("namespace", ["", "airflow"])
def test_the_job_may_make_and_read_these_secrets(namespace: str) -> None:
    objects = render(namespace)
    roles = {
        one["metadata"]["namespace"]: one["rules"] for one in objects if identity(one) == ("Role", BOOTSTRAP)
    }
    assert set(roles) == {space for space, _, _ in wanted_secrets(objects)}
    bindings = [one for one in objects if identity(one) == ("RoleBinding", BOOTSTRAP)]
    assert {one["metadata"]["namespace"] for one in bindings} == set(roles)
    read = {
        (space, name)
        for space, rules in roles.items()
        for rule in rules
        if rule["verbs"] == ["get"]
        for name in rule["resourceNames"]
    }
    logins = {
        ("trainyard", f"trainyard-mlflow-login-{name}")
        for name in ("admin", "trainer", "promoter", "serving")
    }
    assert read == {("trainyard", "trainyard-postgresql"), ("ml-training", "trainyard-versitygw"), *logins}
    job = pod_spec(find(objects, "Job", BOOTSTRAP))
    scripts = find(objects, "ConfigMap", job["volumes"][0]["configMap"]["name"])
    assert "bootstrap_secrets.py" in scripts["data"]


@pytest.mark.parametrize("namespace", ["", "airflow"])
def test_its_service_account_has_the_roles(namespace: str) -> None:
    objects = render(namespace)
    mine = render_chart()
    for name, own in ROLES.items():
        role, binding = find(objects, "Role", name), find(objects, "RoleBinding", name)
        assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == own
        assert binding["roleRef"]["name"] == name
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": TRIGGERER, "namespace": namespace or "trainyard"}
        ]
        if name != "trainyard-maintenance":
            assert role["rules"] == find(mine, "Role", name)["rules"]
    cron_jobs = find(objects, "Role", "trainyard-maintenance")["rules"][0]["resourceNames"]
    assert cron_jobs == ["trainyard-mlflow-garbage-collection"]


def test_nobody_is_let_in_unless_named() -> None:
    values = {"airflow": {"enabled": False}}
    kept = {identity(one)[1] for one in render_chart(values=values) if one["kind"] == "RoleBinding"}
    assert kept == {BOOTSTRAP}


def test_its_pods_find_the_platform_in_their_own_namespace() -> None:
    objects = render("airflow")
    files = {
        one["metadata"]["namespace"]: one["data"]["platform.json"]
        for one in objects
        if identity(one) == ("ConfigMap", "trainyard-platform")
    }
    assert set(files) == {"trainyard", "airflow"} and len(set(files.values())) == 1
    told = json.loads(files["airflow"])
    mine = platform(render_chart())
    assert told["pools"] == mine["pools"] and told["training"] == mine["training"]
    assert told["maintenance"]["cronJobs"] == {"mlflowGarbage": "trainyard-mlflow-garbage-collection"}


def test_everything_else_is_as_with_an_airflow_of_the_charts_own() -> None:
    mine = {identity(one) for one in render_chart() if not one["metadata"]["name"].startswith("trainyard-a")}
    left = {identity(one) for one in render()}
    for kind in ("Namespace", "ResourceQuota", "LimitRange", "PriorityClass", "DaemonSet", "StatefulSet"):
        assert {each for each in mine if each[0] == kind} <= left, kind
    assert ("Deployment", "trainyard-mlflow") in left
    claims = {name for kind, name in left if kind == "PersistentVolumeClaim"}
    assert claims == {"datasets", "checkpoints", "trainyard-mlflow-artifacts"}


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({}, "trainyard/mlflow:3.17.2"),
        (OWN_MLFLOW, "trainyard/trainer:0.1.0"),
        ({"scriptJobs": {"image": {"repository": "python", "tag": "3.11-slim"}}}, "python:3.11-slim"),
    ],
    ids=["MLflow's", "the trainer's", "its own"],
)
def test_the_script_jobs_take_an_image_that_is_at_hand(values: Object, image: str) -> None:
    (container,) = containers(find(render(**values), "Job", BOOTSTRAP))
    assert container["image"] == image
    assert container["command"] == ["python", "/scripts/bootstrap_secrets.py"]


def test_what_comes_from_elsewhere_is_not_made() -> None:
    objects = render(**OWN_DATABASE, **OWN_OBJECT_STORE, mlflow={"auth": {"enabled": False}})
    assert BOOTSTRAP not in {identity(one)[1] for one in objects}
    assert "trainyard-platform-scripts" not in {identity(one)[1] for one in objects}
