"""Data in object storage alone: who gets there, with which keys, and no shared volume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made import made_at_run_time
from network import Network, policies, workloads
from render import Object, containers, environment, find, platform, pod_spec, render_chart, wanted_secrets

GATEWAY = "trainyard-versitygw"
OVERLAY = "object-storage.yaml"
each_base = pytest.mark.parametrize("base", ["kind.yaml", "production.yaml"])
OWN: Object = {
    "versitygw": {"enabled": False},
    "mlflow": {"envFrom": None, "artifacts": {"destination": "s3://models"}},
}


def source(secret: str) -> Object:
    return {"secretRef": {"name": secret}}


@each_base
def test_nothing_asks_for_a_shared_volume(base: str) -> None:
    objects = render_chart(files=(base, OVERLAY))
    claimed = [one for one in objects if one["kind"] == "PersistentVolumeClaim"]
    modes = {one["metadata"]["name"]: one["spec"]["accessModes"] for one in claimed}
    assert modes == {GATEWAY: ["ReadWriteOnce"]}
    assert not [one for one in objects if "training-volumes" in one["metadata"]["name"]]


@each_base
def test_training_pods_mount_scratch_and_their_login_alone(base: str, tmp_path: Path) -> None:
    pod = made_at_run_time(render_chart(files=(base, OVERLAY)), tmp_path)["training"]
    assert {next(iter(volume.keys() - {"name"})) for volume in pod["spec"]["volumes"]} == {
        *("emptyDir", "secret")
    }
    (container,) = pod["spec"]["containers"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {
        *("/tmp", "/dev/shm", "/tmp/.mlflow")
    }
    assert environment(container)["CHECKPOINT_DIR"].startswith("s3://training/checkpoints/digits__manual")
    assert container["envFrom"] == [source("trainyard-training-s3")]


def test_training_and_mlflow_have_an_account_each_that_owns_its_bucket() -> None:
    objects = render_chart(files=("production.yaml", OVERLAY))
    wanted = wanted_secrets(objects)
    address = {
        "AWS_ENDPOINT_URL": {"value": "http://trainyard-versitygw.ml-training.svc:7070"},
        "AWS_REGION": {"value": "us-east-1"},
    }
    for account in ("training", "mlflow"):
        own = wanted[f"ml-training/trainyard-{account}-s3"]
        assert own == address | {
            "AWS_ACCESS_KEY_ID": {"value": account},
            "AWS_SECRET_ACCESS_KEY": {"generate": "password", "credential": "object-store"},
        }
    copied = wanted["trainyard-mlflow-s3"]
    assert copied == {
        key: {"template": f"{{ml-training/trainyard-mlflow-s3/{key}}}"}
        for key in wanted["ml-training/trainyard-mlflow-s3"]
    }
    server = containers(find(objects, "Deployment", GATEWAY))[-1]
    script = server["lifecycle"]["postStart"]["exec"]["command"][-1]
    owners = [line.split() for line in script.splitlines() if "change-bucket-owner" in line]
    keys = environment(server)
    assert {words[3]: keys[words[5].strip('"$')]["secretKeyRef"] for words in owners} == {
        bucket: {"name": f"trainyard-{bucket}-s3", "key": "AWS_ACCESS_KEY_ID"}
        for bucket in ("training", "mlflow")
    }


def test_without_buckets_for_them_there_are_no_accounts() -> None:
    server = containers(find(render_chart(), "Deployment", GATEWAY))[-1]
    assert "lifecycle" not in server and not [each for each in server["args"] if "iam" in each]
    assert not [name for name in wanted_secrets(render_chart()) if name.endswith("-s3")]


def test_sources_of_ones_own_come_after_the_charts() -> None:
    values = {"training": {"pod": {"envFrom": [source("wandb")]}}}
    told = platform(render_chart(files=("kind.yaml", OVERLAY), values=values))
    assert told["training"]["pod"]["envFrom"] == [source("trainyard-training-s3"), source("wandb")]


def test_an_object_store_of_ones_own_gets_only_what_the_values_say() -> None:
    values = {**OWN, "training": {"pod": {"envFrom": [source("my-s3")]}}}
    objects = render_chart(files=("production.yaml", OVERLAY), values=values)
    assert platform(objects)["training"]["pod"]["envFrom"] == [source("my-s3")]
    assert not [one for one in objects if one["kind"] == "PersistentVolumeClaim"]
    assert not [name for name in wanted_secrets(objects) if "s3" in name]


def test_a_cloud_identity_needs_no_keys() -> None:
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/training"}
    values = {**OWN, "training": {"serviceAccountAnnotations": role}}
    objects = render_chart(files=("production.yaml", OVERLAY), values=values)
    assert find(objects, "ServiceAccount", "trainer")["metadata"]["annotations"] == role
    assert platform(objects)["training"]["pod"]["envFrom"] == []


def test_checkpoints_alone_may_be_in_an_object_store() -> None:
    """Beside the datasets' volume, of which the embedded object store serves a directory."""
    uri = "s3://somewhere/checkpoints"
    objects = render_chart(values={"training": {"volumes": {"checkpoints": {"uri": uri}}}})
    told = platform(objects)["training"]
    assert told["volumes"] == {
        "checkpoints": {"uri": uri},
        "datasets": {"claimName": "datasets", "mountPath": "/data"},
    }
    names = {one["metadata"]["name"] for one in objects if one["kind"] == "PersistentVolumeClaim"}
    assert "checkpoints" not in names and "datasets" in names
    (volume,) = pod_spec(find(objects, "Deployment", GATEWAY))["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == "datasets"


def test_its_volume_may_be_there_already() -> None:
    values = {"versitygw": {"persistence": {"existingClaim": "store"}}}
    objects = render_chart(files=("kind.yaml", OVERLAY), values=values)
    assert not [one for one in objects if one["kind"] == "PersistentVolumeClaim"]
    claims = [
        each["persistentVolumeClaim"]["claimName"]
        for each in pod_spec(find(objects, "Deployment", GATEWAY))["volumes"]
        if "persistentVolumeClaim" in each
    ]
    assert claims == ["store"]


SERVED: Object = {
    "type": "NodePort",
    "nodePort": 30070,
    "annotations": {"service.beta.kubernetes.io/x": "y"},
}


def test_the_service_may_be_reached_from_outside() -> None:
    service = find(render_chart(values={"versitygw": {"service": SERVED}}), "Service", GATEWAY)
    assert service["spec"]["type"] == "NodePort"
    assert service["spec"]["ports"][0]["nodePort"] == 30070
    assert service["metadata"]["annotations"] == SERVED["annotations"]


def test_an_ingress_leads_to_it() -> None:
    ingress = {
        "enabled": True,
        "host": "s3.example.com",
        "ingressClassName": "nginx",
        "tlsSecretName": "s3-tls",
        "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "0"},
    }
    found = find(render_chart(values={"versitygw": {"ingress": ingress}}), "Ingress", GATEWAY)
    assert found["metadata"]["namespace"] == "ml-training"
    assert found["metadata"]["annotations"] == ingress["annotations"]
    spec = found["spec"]
    assert spec["ingressClassName"] == "nginx"
    assert spec["tls"] == [{"hosts": ["s3.example.com"], "secretName": "s3-tls"}]
    (rule,) = spec["rules"]
    (path,) = rule["http"]["paths"]
    assert (rule["host"], path["backend"]["service"]) == (
        "s3.example.com",
        {"name": GATEWAY, "port": {"name": "s3"}},
    )
    assert not [one for one in render_chart() if one["kind"] == "Ingress"]


def test_clients_may_be_named_where_it_is_reached_from_outside() -> None:
    clients = [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    values = {
        "versitygw": {"service": {"type": "LoadBalancer"}},
        "networkPolicies": {"clients": {"objectStore": clients}},
    }
    policy = find(render_chart(values=values), "NetworkPolicy", "trainyard-net-versitygw")
    assert {"from": clients, "ports": [{"protocol": "TCP", "port": 7070}]} in policy["spec"]["ingress"]


def test_airflow_reaches_its_logs_there(tmp_path: Path) -> None:
    objects = render_chart(files=("production.yaml", OVERLAY))
    network, ends = Network(policies(objects)), workloads(objects)
    callers = {name for name, end in ends.items() if network.allows(end, ends[GATEWAY], 7070)}
    assert callers == {"trainyard-api-server", "trainyard-triggerer", "trainyard-mlflow"}
    config = find(objects, "ConfigMap", "trainyard-config")["data"]["airflow.cfg"]
    assert "remote_base_log_folder = s3://airflow/logs" in config
    connection = json.loads(wanted_secrets(objects)["trainyard-s3-connection"]["connection"]["template"])
    assert connection["extra"]["endpoint_url"].endswith(":7070")
