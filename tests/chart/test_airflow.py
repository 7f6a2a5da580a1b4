"""The contracts between Airflow's parts: who holds what, and what a worker pod looks like."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from render import (
    CHART,
    Object,
    containers,
    environment,
    find,
    identity,
    pod_metadata,
    pod_spec,
    render_chart,
    worker_pod,
)

DATABASE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
DATABASE_ASYNC = f"{DATABASE}_ASYNC"
FERNET = "AIRFLOW__CORE__FERNET_KEY"
JWT = "AIRFLOW__API_AUTH__JWT_SECRET"
API = "AIRFLOW__API__SECRET_KEY"
CONNECTION = "AIRFLOW_CONN_TRAINYARD_S3"
# The keys of the official chart's values that ours may use (chart 1.22.0), beside what the umbrella needs.
OFFICIAL_KEYS = """
    affinity airflowHome airflowLocalSettings airflowPodAnnotations airflowVersion apiSecretKeySecretName
    apiServer config createUserJob dagProcessor dags data databaseCleanup defaultAirflowRepository
    defaultAirflowTag env executor extraConfigMaps extraEnv extraEnvFrom extraSecrets fernetKeySecretName
    fullnameOverride gid imagePullSecrets images ingress jwtSecretName labels logs migrateDatabaseJob
    nameOverride nodeSelector pgbouncer podTemplate ports rbac scheduler secret securityContexts tolerations
    statsd topologySpreadConstraints triggerer uid volumeMounts volumes webserverSecretKeySecretName workers
"""
OWN_KEYS = {
    "enabled": "the umbrella's switch",
    "heartbeatMaxAge": "the official chart's probes have no such limit",
    "waitForMigrationsResources": "the official chart's init containers have no resources",
}


# What the database would hold of a small and a large XCom; both come back as they were.
ROUND_TRIP = """
import json
from types import SimpleNamespace
from airflow.sdk.execution_time.xcom import XCom
stored = []
for value in ("file:///data/x.csv", "x" * 102_400):
    stored.append(XCom.serialize_value(value, key="k", task_id="task", dag_id="dag", run_id="run"))
    assert XCom.deserialize_value(SimpleNamespace(value=stored[-1])) == value
print(json.dumps(stored))
"""


@pytest.mark.parametrize(
    ("name", "secrets"),
    [
        ("trainyard-api-server", {DATABASE, DATABASE_ASYNC, FERNET, JWT, API, CONNECTION}),
        ("trainyard-scheduler", {DATABASE, DATABASE_ASYNC, FERNET, JWT}),
        ("trainyard-dag-processor", {DATABASE, DATABASE_ASYNC, FERNET}),
        ("trainyard-triggerer", {DATABASE, DATABASE_ASYNC, FERNET, CONNECTION}),
    ],
)
def test_a_component_holds_the_secrets_it_needs(name: str, secrets: set[str]) -> None:
    main = pod_spec(find(render_chart(), "Deployment", name))["containers"][0]
    held = {key for key, value in environment(main).items() if isinstance(value, dict)}
    assert held == secrets


def test_a_worker_pod_holds_nothing() -> None:
    pod = worker_pod(render_chart())
    assert "secret" not in json.dumps(pod).lower()
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["serviceAccountName"] == "trainyard-airflow-worker"


def test_a_worker_pod_is_what_kubernetes_executor_wants() -> None:
    pod = worker_pod(render_chart())
    base = pod["spec"]["containers"][0]
    assert pod["metadata"]["name"] == "placeholder-name"
    assert (
        pod["metadata"]["labels"].items()
        >= {
            "tier": "airflow",
            "component": "worker",
            "release": "trainyard",
        }.items()
    )
    assert pod["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert base["name"] == "base" and "args" not in base and "command" not in base
    assert environment(base)["AIRFLOW__CORE__EXECUTOR"] == "KubernetesExecutor"
    assert pod["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("name", ["api-server", "scheduler", "dag-processor", "triggerer", None])
def test_platform_and_logs_are_mounted(name: str | None) -> None:
    objects = render_chart()
    pod = find(objects, "Deployment", f"trainyard-{name}") if name else worker_pod(objects)
    main = pod_spec(pod)["containers"][0]
    mounts = {mount["name"]: mount["mountPath"] for mount in main["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_spec(pod)["volumes"]}
    assert environment(main)["TRAINYARD_PLATFORM"] == mounts["platform"] + "/platform.json"
    assert volumes["platform"]["configMap"]["name"] == "trainyard-platform"
    assert volumes["logs"]["persistentVolumeClaim"]["claimName"] == "airflow-logs"
    assert mounts["logs"] == "/opt/airflow/logs"


@pytest.mark.parametrize(
    ("logs", "claims"),
    [
        ({}, {"airflow-logs"}),
        ({"existingClaim": "mine"}, {"mine"}),
        ({"existingClaim": ""}, {"trainyard-logs"}),
        ({"enabled": False}, set()),
    ],
)
def test_the_claim_of_the_logs_is_named_once(logs: Object, claims: set[str]) -> None:
    values = {"airflow": {"logs": {"persistence": logs}}}
    if not claims:
        values["airflow"]["config"] = {"common.io": {"xcom_objectstorage_path": "s3://bucket/xcom"}}
    objects = render_chart(values=values)
    made = {one["metadata"]["name"] for one in objects if one["kind"] == "PersistentVolumeClaim"}
    assert made - {"datasets", "checkpoints", "trainyard-mlflow-artifacts"} == claims
    volumes = pod_spec(find(objects, "Deployment", "trainyard-triggerer"))["volumes"]
    used = {one["persistentVolumeClaim"]["claimName"] for one in volumes if "persistentVolumeClaim" in one}
    assert used == claims


def airflow_cfg(objects: list[Object]) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read_string(find(objects, "ConfigMap", "trainyard-config")["data"]["airflow.cfg"])
    return parser


def test_configuration() -> None:
    objects = render_chart(values={"airflow": {"config": {"core": {"parallelism": 9}}}})
    config = airflow_cfg(objects)
    assert config["core"]["parallelism"] == "9"
    assert config["scheduler"]["scheduler_idle_sleep_time"] == "0.5"
    url = re.match(r"http://([\w-]+)\.(\w+)\.svc:(\d+)/", config["core"]["execution_api_server_url"])
    assert url
    service = find(objects, "Service", url[1])
    assert (service["metadata"]["namespace"], service["spec"]["ports"][0]["port"]) == (url[2], int(url[3]))
    # A pod may wait for a GPU for as long as its token lives; both are this option.
    assert config.getfloat("scheduler", "task_queued_timeout") >= 86400
    mounts = pod_spec(find(objects, "Deployment", "trainyard-scheduler"))["containers"][0]["volumeMounts"]
    template = Path(config["kubernetes_executor"]["pod_template_file"])
    assert {"name": "pod-template", "mountPath": str(template.parent), "readOnly": True} in mounts
    assert template.name in find(objects, "ConfigMap", "trainyard-pod-template")["data"]


def test_a_label_of_a_component_goes_before_that_of_all() -> None:
    own = {"labels": {"team": "b"}, "podAnnotations": {"team": "b"}}
    objects = render_chart(
        values={
            "airflow": {
                "labels": {"team": "a"},
                "airflowPodAnnotations": {"team": "a"},
                **{component: own for component in ("scheduler", "workers", "databaseCleanup")},
            }
        }
    )
    for kind, name, team in (
        ("Deployment", "trainyard-scheduler", "b"),
        ("Deployment", "trainyard-triggerer", "a"),
        ("CronJob", "trainyard-database-cleanup", "b"),
        ("Pod", "", "b"),
    ):
        metadata = pod_metadata(find(objects, kind, name) if name else worker_pod(objects))
        assert metadata["labels"]["team"] == metadata["annotations"]["team"] == team, name


def test_the_options_exist_in_this_airflow() -> None:
    from airflow.configuration import conf

    known = conf.configuration_description
    for section, options in airflow_cfg(render_chart()).items():
        for option in options:
            assert option in known[section]["options"], f"[{section}] {option}"


def test_large_xcoms_are_files_on_the_volume_that_all_share(tmp_path: Path) -> None:
    """With the chart's own settings but for the place: 100 KiB arrive whole, and the database has a path."""
    config = airflow_cfg(render_chart())
    files = config["common.io"]
    assert files["xcom_objectstorage_path"].startswith("file:///opt/airflow/logs/")
    files["xcom_objectstorage_path"] = f"file://{tmp_path}/xcom"
    settings = {f"AIRFLOW__COMMON_IO__{option.upper()}": value for option, value in files.items()}
    settings["AIRFLOW__CORE__XCOM_BACKEND"] = config["core"]["xcom_backend"]
    environ = {**os.environ, **settings, "AIRFLOW_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ROUND_TRIP], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    small, large = json.loads(done.stdout.splitlines()[-1])
    assert small == "file:///data/x.csv"
    assert large.startswith(f"file://{tmp_path}/xcom/dag/run/task/") and large.endswith(".gz")
    (file,) = (tmp_path / "xcom").rglob("*.gz")
    assert file.stat().st_size < 1024


def test_one_scheduler_at_a_time() -> None:
    scheduler = find(render_chart(), "Deployment", "trainyard-scheduler")
    assert scheduler["spec"]["replicas"] == 1
    assert scheduler["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_roles_are_small() -> None:
    rules = {
        identity(one)[1]: {
            (resource, verb)
            for rule in one["rules"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        for one in render_chart()
        if one["kind"] in ("Role", "ClusterRole")
    }
    pods = {("pods", verb) for verb in ("create", "delete", "get", "list", "watch")}
    assert rules == {
        "trainyard-scheduler-pod-launcher": pods | {("pods", "patch"), ("pods/log", "get")},
        "trainyard-training-launcher": {
            *(pods - {("pods", "create")}),
            *{("pods/log", "get"), ("events", "list")},
            *(("jobs", verb) for verb in ("create", "delete", "get", "list")),
            *{("jobs/finalizers", "update"), ("services", "create")},
        },
        "trainyard-model-deployer": {
            *(("deployments", verb) for verb in ("create", "delete", "get", "patch")),
            *(("poddisruptionbudgets", verb) for verb in ("create", "delete", "patch")),
            *(("services", verb) for verb in ("create", "delete", "patch")),
            *{("pods", "list"), ("pods/log", "get"), ("events", "list")},
        },
        "trainyard-maintenance": {
            *{("cronjobs", "get"), ("jobs", "create"), ("jobs", "get")},
            *{("pods", "list"), ("pods/log", "get")},
        },
        "trainyard-training-reconciler": {
            *((kind, verb) for kind in ("pods", "jobs") for verb in ("delete", "list")),
            ("events", "create"),
        },
        "trainyard-bootstrap-secrets": {("secrets", "create"), ("secrets", "get")},
    }
    assert not [one for one in render_chart() if one["kind"] == "ClusterRoleBinding"]


def test_values_are_a_subset_of_the_official_charts() -> None:
    ours = yaml.safe_load((CHART / "charts/airflow/values.yaml").read_text())
    assert set(ours) <= set(OFFICIAL_KEYS.split()) | set(OWN_KEYS)


def test_kind_node_ports() -> None:
    objects = render_chart(files=("kind.yaml",))
    for name, port in (("trainyard-api-server", 30080), ("trainyard-mlflow", 30500)):
        assert find(objects, "Service", name)["spec"]["ports"][0]["nodePort"] == port


def test_kind_fits_a_laptop() -> None:
    """CPU requests of everything that stays are small, memory requests under the 3 GiB it may use."""
    millicores = mebibytes = 0
    for one in render_chart(files=("kind.yaml",)):
        if one["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
            for container in pod_spec(one)["containers"]:
                requests = container["resources"]["requests"]
                millicores += int(requests["cpu"].removesuffix("m"))
                mebibytes += int(requests["memory"].removesuffix("Mi"))
    assert millicores <= 200
    assert mebibytes <= 3072


def test_mlflow_answers_to_its_own_names_only() -> None:
    objects = render_chart(values={"mlflow": {"allowedHosts": ["mlflow.example.com"]}})
    arguments = containers(find(objects, "Deployment", "trainyard-mlflow"))[-1]["args"]
    (option,) = [argument for argument in arguments if argument.startswith("--allowed-hosts=")]
    hosts = option.removeprefix("--allowed-hosts=").split(",")
    assert {"trainyard-mlflow:5000", "trainyard-mlflow.trainyard.svc.cluster.local:5000"} <= set(hosts)
    assert {"localhost:5000", "mlflow.example.com"} <= set(hosts)
    assert not [host for host in hosts if "*" in host]
