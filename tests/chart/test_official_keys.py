"""Keys with the official chart's names do here what they do there."""

from __future__ import annotations

import inspect
import json
import re

import asyncpg
import pytest
import sqlalchemy
from psycopg2.extensions import make_dsn, parse_dsn
from render import (
    ChartError,
    Object,
    containers,
    environment,
    find,
    platform,
    pod_metadata,
    pod_spec,
    render_chart,
    render_text,
    wanted_secrets,
    worker_pod,
)


def ingress(**values: object) -> Object:
    """The spec of the api-server's Ingress."""
    objects = render_chart(values={"airflow": {"ingress": {"apiServer": {"enabled": True, **values}}}})
    return find(objects, "Ingress", "trainyard-api-server")["spec"]


@pytest.mark.parametrize(
    "values",
    [
        {"host": "a.example.com"},
        {"hosts": ["a.example.com"]},
        {"hosts": [{"name": "a.example.com"}], "host": "b.example.com"},
    ],
)
def test_an_ingress_has_its_host_in_each_form(values: Object) -> None:
    (rule,) = ingress(**values)["rules"]
    assert rule["host"] == "a.example.com"
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] == "trainyard-api-server"


def test_a_host_has_its_own_certificate_or_that_of_the_ingress() -> None:
    spec = ingress(
        hosts=["a.example.com", {"name": "b.example.com", "tls": {"enabled": True, "secretName": "b"}}],
        tls={"enabled": True, "secretName": "a"},
    )
    assert spec["tls"] == [
        {"hosts": ["a.example.com"], "secretName": "a"},
        {"hosts": ["b.example.com"], "secretName": "b"},
    ]
    assert ingress(host="a.example.com", tls={"enabled": True})["tls"] == [{"hosts": ["a.example.com"]}]


def test_an_ingress_without_hosts_is_refused() -> None:
    with pytest.raises(ChartError, match=r"airflow\.ingress\.apiServer\.hosts: needed where .*; give"):
        render_text(values={"airflow": {"ingress": {"apiServer": {"enabled": True}}}})


def test_a_registry_takes_the_place_of_another_one_once() -> None:
    for repository in ("nvcr.io/x/y", "localhost/x/y", "host:5000/x/y", "x/y", "mirror.example.com/x/y"):
        objects = render_chart(
            values={
                "global": {"imageRegistry": "mirror.example.com"},
                "training": {"image": {"repository": repository, "tag": "1"}},
            }
        )
        assert platform(objects)["training"]["image"] == "mirror.example.com/x/y:1"


def test_a_name_of_a_pull_secret_that_cannot_be_is_refused() -> None:
    with pytest.raises(ChartError, match="imagePullSecrets/0"):
        render_text(values={"airflow": {"imagePullSecrets": ["A b"]}})


def test_pods_have_the_user_and_group_of_the_chart_unless_they_have_their_own() -> None:
    objects = render_chart(
        values={
            "airflow": {
                "uid": 1000680000,
                "gid": 0,
                "securityContexts": {"pod": {"fsGroup": 7, "runAsGroup": None}},
                "scheduler": {"securityContexts": {"pod": {"runAsNonRoot": True}}},
            }
        }
    )
    expected = {"runAsUser": 1000680000, "fsGroup": 7}
    for one in (
        find(objects, "Deployment", "trainyard-api-server"),
        find(objects, "Job", "trainyard-migrate-database"),
        find(objects, "Job", "trainyard-bootstrap-secrets"),
        worker_pod(objects),
    ):
        context = pod_spec(one)["securityContext"]
        assert {key: value for key, value in context.items() if "User" in key or key == "fsGroup"} == expected
        assert "runAsGroup" not in context
    assert pod_spec(find(objects, "Deployment", "trainyard-scheduler"))["securityContext"] == {
        "runAsNonRoot": True
    }


def test_objects_of_the_user_hold_what_they_say() -> None:
    objects = render_chart(
        values={
            "airflow": {
                "extraConfigMaps": {
                    "{{ .Release.Name }}-variables": {
                        "labels": {"team": "a"},
                        "data": "AIRFLOW_VAR_A: '{{ .Release.Namespace }}'\nAIRFLOW_VAR_B: 10485760\n",
                    }
                },
                "extraSecrets": {
                    "connections": {
                        "useHelmHooks": False,
                        "annotations": {"a": "b"},
                        "type": "Opaque",
                        "data": {"AIRFLOW_CONN_A": "aHR0cDovLw=="},
                        "stringData": {"AIRFLOW_CONN_B": "one\ntwo"},
                    }
                },
            }
        }
    )
    variables = find(objects, "ConfigMap", "trainyard-variables")
    assert variables["data"] == {"AIRFLOW_VAR_A": "trainyard", "AIRFLOW_VAR_B": "10485760"}
    assert variables["metadata"]["labels"]["team"] == "a"
    secret = find(objects, "Secret", "connections")
    assert secret["data"] == {"AIRFLOW_CONN_A": "aHR0cDovLw=="}
    assert secret["stringData"] == {"AIRFLOW_CONN_B": "one\ntwo"}
    assert (secret["type"], secret["metadata"]["annotations"]) == ("Opaque", {"a": "b"})


def test_an_object_that_holds_no_map_is_refused() -> None:
    with pytest.raises(ChartError, match=r"airflow\.extraSecrets\.a\.stringData: is not YAML with a text"):
        render_text(values={"airflow": {"extraSecrets": {"a": {"stringData": "just text"}}}})


def test_the_old_name_of_the_api_servers_key() -> None:
    objects = render_chart(values={"airflow": {"webserverSecretKeySecretName": "old"}})
    server = containers(find(objects, "Deployment", "trainyard-api-server"))[-1]
    source = environment(server)["AIRFLOW__API__SECRET_KEY"]
    assert source == {"secretKeyRef": {"name": "old", "key": "webserver-secret-key"}}
    wanted = wanted_secrets(objects)
    assert wanted["old"] == {"webserver-secret-key": {"generate": "password", "credential": "sessions"}}
    assert "trainyard-api-secret-key" not in wanted


@pytest.mark.parametrize("key", ["enabled", "defaultUser"])
def test_the_first_user_can_be_left_out(key: str) -> None:
    values = {"enabled": False} if key == "enabled" else {"defaultUser": {"enabled": False}}
    objects = render_chart(values={"airflow": {"createUserJob": values}})
    migration = containers(find(objects, "Job", "trainyard-migrate-database"))[0]
    assert not [name for name in environment(migration) if name.startswith("ADMIN_")]


def test_the_api_server_reads_webserver_config() -> None:
    objects = render_chart(
        values={
            "airflow": {"apiServer": {"apiServerConfig": "AUTH_TYPE = 4\nNAME = '{{ .Release.Name }}'\n"}}
        }
    )
    config = find(objects, "ConfigMap", "trainyard-api-server-config")
    assert config["data"]["webserver_config.py"].strip() == "AUTH_TYPE = 4\nNAME = 'trainyard'"
    for component in ("api-server", "scheduler"):
        deployment = find(objects, "Deployment", f"trainyard-{component}")
        mounts = {mount["mountPath"] for mount in containers(deployment)[-1]["volumeMounts"]}
        reads = component == "api-server"
        assert ("/opt/airflow/webserver_config.py" in mounts) == reads
        assert ("checksum/api-server-config" in pod_metadata(deployment)["annotations"]) == reads


def test_webserver_config_may_be_a_config_map_of_the_user() -> None:
    objects = render_chart(values={"airflow": {"apiServer": {"apiServerConfigConfigMapName": "mine"}}})
    volumes = pod_spec(find(objects, "Deployment", "trainyard-api-server"))["volumes"]
    assert {"name": "api-server-config", "configMap": {"name": "mine"}} in volumes
    both = {"apiServerConfig": "A = 1", "apiServerConfigConfigMapName": "mine"}
    with pytest.raises(ChartError, match=r"airflow\.apiServer\.apiServerConfigConfigMapName: .* leave one"):
        render_text(values={"airflow": {"apiServer": both}})


def test_an_autoscaler_sets_the_replicas_of_the_api_server() -> None:
    target = {"type": "Utilization", "averageUtilization": 50}
    metrics = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]  # the official default
    hpa: Object = {"enabled": True, "minReplicaCount": 2, "maxReplicaCount": 4, "metrics": metrics}
    hpa["behavior"] = {"scaleDown": {}}
    objects = render_chart(values={"airflow": {"apiServer": {"replicas": 3, "hpa": hpa}}})
    scaler = find(objects, "HorizontalPodAutoscaler", "trainyard-api-server")
    assert scaler["apiVersion"] == "autoscaling/v2"
    assert scaler["spec"] == {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "trainyard-api-server"},
        "minReplicas": 2,
        "maxReplicas": 4,
        "metrics": metrics,
        "behavior": {"scaleDown": {}},
    }
    # Else Argo CD and each upgrade would take back what the autoscaler has set.
    assert "replicas" not in find(objects, "Deployment", "trainyard-api-server")["spec"]
    off = render_chart(values={"airflow": {"apiServer": {"replicas": 3}}})
    assert find(off, "Deployment", "trainyard-api-server")["spec"]["replicas"] == 3
    assert not [one for one in off if one["kind"] == "HorizontalPodAutoscaler"]


def test_an_autoscaler_scales_by_cpu_if_nothing_is_said() -> None:
    """By an amount that a replica may use: below a limit of the same size it would never scale."""
    objects = render_chart(values={"airflow": {"apiServer": {"hpa": {"enabled": True}}}})
    (metric,) = find(objects, "HorizontalPodAutoscaler", "trainyard-api-server")["spec"]["metrics"]
    resources = containers(find(objects, "Deployment", "trainyard-api-server"))[-1]["resources"]
    amount = metric["resource"]["target"]["averageValue"]
    assert float(resources["limits"].get("cpu", "inf")) > float(amount)
    none = render_chart(values={"airflow": {"apiServer": {"hpa": {"enabled": True, "metrics": []}}}})
    assert "metrics" not in find(none, "HorizontalPodAutoscaler", "trainyard-api-server")["spec"]


def test_an_autoscaler_with_its_numbers_the_wrong_way_round_is_refused() -> None:
    with pytest.raises(ChartError, match=r"airflow\.apiServer\.hpa\.minReplicaCount: 9 is over .* lower"):
        render_text(values={"airflow": {"apiServer": {"hpa": {"minReplicaCount": 9}}}})


CONNECTION = {"user": "air flow", "pass": "p@s/s:+%$", "host": "db.example.com", "db": "meta"}


@pytest.mark.parametrize("sslmode", ["", "require", "verify-full"])
def test_the_database_by_its_parts_makes_urls_that_each_driver_takes(sslmode: str) -> None:
    values: Object = {"airflow": {"data": {"metadataConnection": {**CONNECTION, "sslmode": sslmode}}}}
    if sslmode == "verify-full":  # which needs a CA
        tls = {"mode": sslmode, "caSecretName": "database-ca"}
        values |= {"global": {"databaseTls": tls}, "postgresql": {"tlsSecretName": "database"}}
    objects = render_chart(values=values)
    urls = find(objects, "Secret", "trainyard-metadata")["stringData"]
    expected = {"user": "air flow", "password": "p@s/s:+%$", "host": "db.example.com", "port": 5432}

    url = sqlalchemy.make_url(urls["connection"])
    _, arguments = url.get_dialect()().create_connect_args(url)
    dsn = parse_dsn(make_dsn(**arguments))
    assert dsn == {
        **{key: str(value) for key, value in expected.items()},
        "dbname": "meta",
        **({"sslmode": sslmode} if sslmode else {}),
    }

    url = sqlalchemy.make_url(urls["connection-async"])
    _, arguments = url.get_dialect()().create_connect_args(url)
    assert arguments == {**expected, "database": "meta", **({"ssl": sslmode} if sslmode else {})}
    assert arguments.keys() <= inspect.signature(asyncpg.connect).parameters.keys()


def test_the_database_by_its_parts_is_what_components_connect_to() -> None:
    objects = render_chart(values={"airflow": {"data": {"metadataConnection": CONNECTION}}})
    for kind, name in (
        ("Deployment", "trainyard-scheduler"),
        ("Job", "trainyard-migrate-database"),
        ("CronJob", "trainyard-database-cleanup"),
    ):
        for container in containers(find(objects, kind, name)):
            variables = environment(container)
            for variable, key in (
                ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "connection"),
                ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC", "connection-async"),
            ):
                reference = variables[variable]["secretKeyRef"]
                assert (reference["name"], reference["key"]) == ("trainyard-metadata", key)
    assert "trainyard-airflow-metadata" not in wanted_secrets(objects)
    assert "SQL_ALCHEMY" not in json.dumps(worker_pod(objects))


def test_a_secret_may_hold_the_asynchronous_url() -> None:
    """Components start without the key, too."""
    server = containers(find(render_chart(), "Deployment", "trainyard-api-server"))[-1]
    reference = environment(server)["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"]["secretKeyRef"]
    assert reference == {
        "name": "trainyard-airflow-metadata",
        "key": "connection-async",
        "optional": True,
    }


def test_what_kubernetes_workers_set_replaces_what_workers_set() -> None:
    workers = {
        "resources": {"requests": {"cpu": "1"}},
        "nodeSelector": {"a": "b"},
        "labels": {"team": "one"},
        "serviceAccount": {"annotations": {"role": "one"}},
        "kubernetes": {
            "resources": {"limits": {"memory": "1Gi"}},
            "nodeSelector": {"c": "d"},
            "tolerations": [],
            "labels": None,
            "serviceAccount": {"name": "tasks"},
            "terminationGracePeriodSeconds": 0,
        },
    }
    objects = render_chart(values={"airflow": {"workers": workers}})
    pod = worker_pod(objects)
    assert pod["spec"]["containers"][0]["resources"] == {"limits": {"memory": "1Gi"}}
    assert pod["spec"]["nodeSelector"] == {"c": "d"}
    assert pod["metadata"]["labels"]["team"] == "one"
    assert pod["spec"]["terminationGracePeriodSeconds"] == 0
    assert pod["spec"]["serviceAccountName"] == "tasks"
    account = find(objects, "ServiceAccount", "tasks")
    assert account["metadata"]["annotations"] == {"role": "one"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("resource", {}, "additional properties 'resource'"),
        ("tolerations", "x", "workers/kubernetes/tolerations"),
        ("command", ["x"], r"airflow\.workers\.kubernetes\.command: KubernetesExecutor says"),
        ("priorityClassName", "none", r"airflow\.workers\.kubernetes\.priorityClassName: there is no none"),
    ],
)
def test_keys_of_kubernetes_workers_are_checked(key: str, value: object, said: str) -> None:
    with pytest.raises(ChartError, match=said):
        render_text(values={"airflow": {"workers": {"kubernetes": {key: value}}}})


@pytest.mark.parametrize("component", ["scheduler", "dagProcessor", "triggerer"])
def test_old_logs_are_deleted_beside_a_component(component: str) -> None:
    name = re.sub("([A-Z])", r"-\1", component).lower()
    values = {"enabled": True, "retentionDays": 7, "frequencyMinutes": 60}
    objects = render_chart(values={"airflow": {component: {"logGroomerSidecar": values}}})
    groomer = containers(find(objects, "Deployment", f"trainyard-{name}"))[-1]
    assert groomer["name"] == f"{name}-log-groomer"
    assert groomer["args"] == ["bash", "/clean-logs"]
    assert environment(groomer) == {
        "AIRFLOW_HOME": "/opt/airflow",
        "AIRFLOW__LOG_RETENTION_DAYS": "7",
        "AIRFLOW__LOG_CLEANUP_FREQUENCY_MINUTES": "60",
    }
    assert groomer["volumeMounts"] == [{"name": "logs", "mountPath": "/opt/airflow/logs"}]
    assert groomer["securityContext"]["readOnlyRootFilesystem"] and groomer["resources"]["limits"]
