"""The embedded object store: what it serves of the datasets volume, and who can reach it."""

from __future__ import annotations

import json

import pytest
from render import (
    Object,
    containers,
    environment,
    find,
    platform,
    pod_spec,
    render_chart,
    wanted_secrets,
    worker_pod,
)

KEYS = {
    "ROOT_ACCESS_KEY_ID": {"secretKeyRef": {"name": "trainyard-versitygw", "key": "access-key"}},
    "ROOT_SECRET_ACCESS_KEY": {"secretKeyRef": {"name": "trainyard-versitygw", "key": "secret-key"}},
}
CONNECTION = "AIRFLOW_CONN_TRAINYARD_S3"
BOOTSTRAP = "trainyard-bootstrap-secrets"


def gateway(values: Object | None = None) -> Object:
    return find(
        render_chart(values={"versitygw": values or {}}, files=("kind.yaml",)),
        "Deployment",
        "trainyard-versitygw",
    )


def bootstrap_namespaces(objects: list[Object]) -> set[str]:
    return {
        one["metadata"]["namespace"]
        for one in objects
        if one["kind"] in ("Role", "RoleBinding") and one["metadata"]["name"] == BOOTSTRAP
    }


def test_it_serves_the_buckets_and_nothing_else_of_the_volume() -> None:
    spec = pod_spec(gateway({"buckets": ["incoming", "exports"]}))
    (make,), (server,) = spec["initContainers"], spec["containers"]
    assert make["command"] == ["mkdir", "-p", "/volume/incoming", "/volume/exports"]
    assert server["args"][-1] == "/buckets"
    assert {mount["mountPath"]: mount["subPath"] for mount in server["volumeMounts"]} == {
        "/buckets/incoming": "incoming",
        "/buckets/exports": "exports",
    }
    assert spec["volumes"] == [{"name": "volume", "persistentVolumeClaim": {"claimName": "datasets"}}]


def test_it_runs_beside_the_trainers_and_as_they_do() -> None:
    objects = render_chart()
    deployment = find(objects, "Deployment", "trainyard-versitygw")
    training = platform(objects)["training"]
    assert deployment["metadata"]["namespace"] == training["namespace"]
    for key in ("runAsUser", "runAsGroup", "fsGroup"):
        assert pod_spec(deployment)["securityContext"][key] == training["podSecurityContext"][key]


def test_headers_can_lie_beside_the_files() -> None:
    spec = pod_spec(gateway({"metadata": "sidecar"}))
    assert "/volume/.versitygw" in spec["initContainers"][0]["command"]
    server = spec["containers"][0]
    assert "--sidecar=/metadata" in server["args"]
    assert {"name": "volume", "mountPath": "/metadata", "subPath": ".versitygw"} in server["volumeMounts"]


def test_one_process_at_a_time() -> None:
    """It is set to do without the lock files that several processes would need."""
    deployment = gateway()
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert "--disable-object-lock-file" in containers(deployment)[-1]["args"]


def test_its_keys_and_the_connection_are_born_in_the_cluster() -> None:
    objects = render_chart()
    server = containers(find(objects, "Deployment", "trainyard-versitygw"))[-1]
    assert environment(server) == KEYS
    wanted = wanted_secrets(objects)
    assert wanted["ml-training/trainyard-versitygw"] == {
        "access-key": {"value": "trainyard"},
        "secret-key": {"generate": "password", "credential": "object-store"},
    }
    connection = json.loads(wanted["trainyard-s3-connection"]["connection"]["template"])
    assert connection == {
        "conn_type": "aws",
        "login": "{ml-training/trainyard-versitygw/access-key}",
        "password": "{ml-training/trainyard-versitygw/secret-key}",
        "extra": {
            "endpoint_url": "http://trainyard-versitygw.ml-training.svc:7070",
            "region_name": "us-east-1",
        },
    }
    assert bootstrap_namespaces(objects) == {"trainyard", "ml-training", "ml-serving"}


def test_the_connection_leads_to_the_service() -> None:
    service = find(render_chart(), "Service", "trainyard-versitygw")
    assert (service["metadata"]["namespace"], service["spec"]["ports"][0]["port"]) == ("ml-training", 7070)


def test_the_connection_is_where_the_execution_api_runs_and_not_in_worker_pods() -> None:
    objects = render_chart()
    holders = {
        one["metadata"]["name"]
        for one in objects
        if one["kind"] == "Deployment" and any(CONNECTION in environment(each) for each in containers(one))
    }
    assert holders == {"trainyard-api-server", "trainyard-triggerer"}
    assert CONNECTION not in environment(containers(worker_pod(objects))[0])


def test_keys_may_come_from_elsewhere() -> None:
    external = ["ml-training/trainyard-versitygw", "trainyard-s3-connection"]
    wanted = wanted_secrets(render_chart(values={"secrets": {"external": external}}))
    assert not set(external) & set(wanted)


def test_without_it_nothing_is_asked_for_in_the_training_namespace() -> None:
    # Those are MLflow's accounts otherwise.
    objects = render_chart(values={"versitygw": {"enabled": False}, "mlflow": {"auth": {"enabled": False}}})
    assert bootstrap_namespaces(objects) == {"trainyard"}
    assert not [name for name in wanted_secrets(objects) if "versitygw" in name or "s3" in name]


@pytest.mark.parametrize("files", [(), ("kind.yaml",), ("production.yaml",)])
def test_the_volume_is_the_one_that_trainers_mount(files: tuple[str, ...]) -> None:
    objects = render_chart(files=files)
    (volume,) = pod_spec(find(objects, "Deployment", "trainyard-versitygw"))["volumes"]
    claim = platform(objects)["training"]["volumes"]["datasets"]["claimName"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim
