"""One registry and its pull secrets reach every pod, also those that are made at run time."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import made_at_run_time
from render import POD_KINDS, Object, containers, identity, pod_spec, render_chart
from trainyard_cli.chart import merge

MIRROR = "mirror.example.com:5000/all"
GLOBAL: Object = {"global": {"imageRegistry": f"{MIRROR}/", "imagePullSecrets": ["all", {"name": "more"}]}}
BUNDLES = {"git": {"bundles": {"one": {"repo": "https://example.com/x.git"}}}}
# Every part that has pods is on.
EVERYTHING: Object = {
    "airflow": {"dags": BUNDLES, "dagProcessor": {"logGroomerSidecar": {"enabled": True}}},
    "backup": {"enabled": True},
}
# Whose image the script Jobs and the backups have depends on what is there.
PARTS: dict[str, Object] = {
    "everything": EVERYTHING,
    "images of their own": {
        **EVERYTHING,
        "scriptJobs": {"image": {"repository": "docker.io/library/python", "tag": "3.11"}},
        "backup": {"enabled": True, "image": {"repository": "quay.io/x/postgres", "tag": "17"}},
    },
    "without Airflow": {"airflow": {"enabled": False}, "backup": {"enabled": True}},
    "without Airflow and MLflow": {
        "airflow": {"enabled": False},
        "mlflow": {"enabled": False},
        "training": {"trackingUri": "http://mlflow.example.com"},
    },
    "without the database": {"postgresql": {"enabled": False}, "airflow": {"dags": BUNDLES}},
}
# Each with a name of its own.
OWN: Object = {
    "airflow": {"imagePullSecrets": ["airflow", {"name": "both"}]},
    "mlflow": {"imagePullSecrets": [{"name": "mlflow"}]},
    "postgresql": {"imagePullSecrets": ["postgresql"]},
    "versitygw": {"imagePullSecrets": ["versitygw"]},
    "nvidia-device-plugin": {"imagePullSecrets": ["plugin"]},
    "training": {"imagePullSecrets": ["training"]},
    "scriptJobs": {"imagePullSecrets": ["scripts"]},
    "backup": {"imagePullSecrets": ["backup"]},
}


def all_pods(values: Object, directory: Path, files: tuple[str, ...] = ()) -> dict[str, Object]:
    """Whatever makes pods or is one, by what it is."""
    objects = render_chart(files=files, values=values)
    found = {"/".join(identity(one)): one for one in objects if one["kind"] in POD_KINDS}
    if values.get("airflow", {}).get("enabled", True):
        made = made_at_run_time(objects, directory)
        found |= {name: made[name] for name in ("worker", "training", "model-server")}
    return found


def images(one: Object) -> list[str]:
    """The images of its containers and of its volumes."""
    volumes = [
        volume["image"]["reference"] for volume in pod_spec(one).get("volumes", []) if "image" in volume
    ]
    return [*(container["image"] for container in containers(one)), *volumes]


@pytest.mark.parametrize("files", [(), ("kind.yaml",)], ids="+".join)
@pytest.mark.parametrize("parts", PARTS)
def test_one_registry_serves_every_pod_and_its_secrets_are_there(
    parts: str, files: tuple[str, ...], tmp_path: Path
) -> None:
    pods = all_pods(merge(PARTS[parts], GLOBAL), tmp_path, files)
    for name, one in pods.items():
        assert all(image.startswith(f"{MIRROR}/") for image in images(one)), name
        assert not [image for image in images(one) if "docker.io" in image or "quay.io" in image], name
        assert pod_spec(one)["imagePullSecrets"] == [{"name": "all"}, {"name": "more"}], name


def test_every_part_is_among_them(tmp_path: Path) -> None:
    pods = all_pods(EVERYTHING, tmp_path)
    for name in ("dag-publisher-one", "backup", "restore", "training-volumes", "airflow-pools", "versitygw"):
        assert [key for key in pods if key.endswith(f"/trainyard-{name}")], name
    assert {"worker", "training", "model-server"} <= pods.keys()


def test_a_part_has_its_own_pull_secrets_before_those_of_all(tmp_path: Path) -> None:
    values = merge(merge(EVERYTHING, OWN), {"global": {"imagePullSecrets": ["both"]}})
    found = {
        name: [secret["name"] for secret in pod_spec(one)["imagePullSecrets"]]
        for name, one in all_pods(values, tmp_path).items()
    }
    airflow = ["airflow", "both"]
    scripts = ["scripts", "both"]
    backup = ["mlflow", *airflow, "postgresql", "backup"]
    assert found == {
        **{
            f"Deployment/trainyard-{name}": airflow
            for name in (
                "api-server",
                "scheduler",
                "dag-processor",
                "triggerer",
                "reconciler",
                "dag-publisher-one",
            )
        },
        "Job/trainyard-migrate-database": airflow,
        "CronJob/trainyard-database-cleanup": airflow,
        "worker": airflow,
        "Deployment/trainyard-mlflow": ["mlflow", "both"],
        "CronJob/trainyard-mlflow-garbage-collection": ["mlflow", "both"],
        "StatefulSet/trainyard-postgresql": ["postgresql", "both"],
        "Deployment/trainyard-versitygw": ["versitygw", "both"],
        "DaemonSet/trainyard-nvidia-device-plugin": ["plugin", "both"],
        "Job/trainyard-bootstrap-secrets": scripts,
        "Job/trainyard-airflow-pools": scripts,
        # In the namespace of training, with the image of the others.
        "Job/trainyard-training-volumes": ["training", *scripts],
        "CronJob/trainyard-backup": backup,
        "CronJob/trainyard-restore": backup,
        "Job/trainyard-backup-place": backup,
        "training": ["training", "both"],
        "model-server": ["training", "both"],
    }
