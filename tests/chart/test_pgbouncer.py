"""PgBouncer between Airflow and its database: who goes through it, with what, and what it is told."""

from __future__ import annotations

import configparser
import json
import re
from typing import Any

import pytest
import sqlalchemy
from references import References
from render import (
    CHART,
    ChartError,
    Object,
    containers,
    environment,
    find,
    pod_metadata,
    pod_spec,
    pods,
    render_chart,
    wanted_secrets,
)
from test_scripts import load
from trainyard_cli.chart import merge

ON: Object = {"airflow": {"pgbouncer": {"enabled": True}}}
PARTS: Object = {
    "host": "db.example.com",
    "port": 6432,
    "user": "air flow",
    "pass": "p@s's:+%$\"",
    "db": "me'ta",
}
BY_PARTS: Object = merge(ON, {"airflow": {"data": {"metadataConnection": PARTS}}})
OWN: Object = merge(
    ON, {"airflow": {"pgbouncer": {"configSecretName": "own"}}, "postgresql": {"enabled": False}}
)
TLS: Object = {
    "global": {"databaseTls": {"mode": "verify-full", "caSecretName": "db-ca"}},
    "postgresql": {"tlsSecretName": "db-server"},
}
NAME = "trainyard-pgbouncer"
URL, ARGUMENTS = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS_ASYNC"
# The containers that use Airflow's database.
POOLED = {
    *("api-server", "scheduler", "dag-processor", "triggerer", "wait-for-airflow-migrations"),
    *("database-cleanup", "reconciler"),
}
FILE = "/opt/airflow/config/pgbouncer_connections.py"


def server(objects: list[Object]) -> Object:
    """The container of PgBouncer."""
    (container,) = containers(find(objects, "Deployment", NAME))
    return container


def ini(objects: list[Object]) -> configparser.RawConfigParser:
    """What it is told."""
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=(";",))
    parser.read_string(find(objects, "ConfigMap", NAME)["data"]["pgbouncer.ini"])
    return parser


def files(objects: list[Object]) -> dict[str, tuple[str, str]]:
    """Its files: path -> kind and name of what they are of."""
    volumes = {volume["name"]: volume for volume in pod_spec(find(objects, "Deployment", NAME))["volumes"]}
    found = {}
    for mount in server(objects)["volumeMounts"]:
        volume = volumes[mount["name"]]
        source = ("Secret", volume["secret"]["secretName"]) if "secret" in volume else None
        found[mount["mountPath"]] = source or ("ConfigMap", volume["configMap"]["name"])
    return found


@pytest.mark.parametrize(
    ("values", "secret"),
    [
        pytest.param(ON, NAME, id="embedded"),
        pytest.param(BY_PARTS, NAME, id="by-parts"),
        pytest.param(OWN, "own", id="own-config"),
        pytest.param(
            merge(BY_PARTS, {"airflow": {"pgbouncer": {"configSecretName": "own"}}}), NAME, id="own-by-parts"
        ),
    ],
)
def test_airflow_connects_through_it_and_the_migration_past_it(values: Object, secret: str) -> None:
    objects = render_chart(values=values)
    found = set()
    for one in pods(objects):
        for container in containers(one):
            variables = environment(container)
            if URL not in variables:
                continue
            if container["name"] == "migrate-database":
                assert variables[URL]["secretKeyRef"]["key"] == "connection"
                assert ARGUMENTS not in variables and "PGBOUNCER_LOGIN" not in variables
                continue
            found.add(container["name"])
            assert variables["PGBOUNCER_LOGIN"] == {"secretKeyRef": {"name": secret, "key": "login"}}
            names = [variable["name"] for variable in container["env"]]
            assert names.index("PGBOUNCER_LOGIN") < names.index(URL), (
                "the kubelet knows only what came before"
            )
            assert variables[ARGUMENTS] == "pgbouncer_connections.ASYNC"
            assert f"{URL}_ASYNC" not in variables
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert (FILE in mounts) == (
                container["name"] not in ("wait-for-airflow-migrations", "reconciler")
            )
    assert found == POOLED


def test_the_url_leads_to_its_service_and_the_name_that_it_knows() -> None:
    for values in (ON, merge(ON, {"airflow": {"ports": {"pgbouncer": 7777}, "fullnameOverride": "flow"}})):
        objects = render_chart(values=values, release="blue")
        name = "flow" if values is not ON else "blue"
        scheduler = containers(find(objects, "Deployment", f"{name}-scheduler"))[-1]
        url = sqlalchemy.make_url(environment(scheduler)[URL].replace("$(PGBOUNCER_LOGIN)", "a:b"))
        service = find(objects, "Service", f"{name}-pgbouncer")
        assert url.host == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
        (port,) = service["spec"]["ports"]
        deployment = find(objects, "Deployment", f"{name}-pgbouncer")
        (listening,) = containers(deployment)[0]["ports"]
        told = configparser.RawConfigParser(delimiters=("=",))
        told.read_string(find(objects, "ConfigMap", f"{name}-pgbouncer")["data"]["pgbouncer.ini"])
        assert (
            url.port == port["port"] == listening["containerPort"] == told.getint("pgbouncer", "listen_port")
        )
        assert listening["name"] == port["targetPort"]
        assert url.database in told["databases"]
        assert service["spec"]["selector"].items() <= pod_metadata(deployment)["labels"].items()


def test_it_finds_the_embedded_database() -> None:
    objects = render_chart(values=ON)
    told = ini(objects)
    service = find(objects, "Service", "trainyard-postgresql")
    assert told["databases"]["trainyard-metadata"].split() == [
        f"host={service['metadata']['name']}.trainyard.svc",
        f"port={service['spec']['ports'][0]['port']}",
        "dbname='airflow'",
        "pool_size=10",
    ]
    assert told["pgbouncer"]["pool_mode"] == "transaction"
    assert told["pgbouncer"]["unix_socket_dir"] == "", "the file system is read-only"
    password = "{trainyard-postgresql/airflow-password}"
    assert wanted_secrets(objects)[NAME] == {
        "login": {"template": f"airflow:{password}"},
        "users.txt": {"template": f'"airflow" "{password}"\n'},
    }
    assert files(objects) == {
        "/etc/pgbouncer/pgbouncer.ini": ("ConfigMap", NAME),
        "/etc/pgbouncer/users.txt": ("Secret", NAME),
    }


def test_it_finds_a_database_by_its_parts() -> None:
    objects = render_chart(values=BY_PARTS)
    assert ini(objects)["databases"]["trainyard-metadata"].startswith(
        "host=db.example.com port=6432 dbname='me''ta' pool_size="
    )
    secret = find(objects, "Secret", NAME)["stringData"]
    assert secret["users.txt"] == '"air flow" "p@s\'s:+%$"""\n'
    url = sqlalchemy.make_url(f"postgresql+psycopg2://{secret['login']}@x/y")
    assert (url.username, url.password) == (PARTS["user"], PARTS["pass"])
    assert NAME not in wanted_secrets(objects)
    assert "p@s" not in json.dumps([one for one in objects if one["kind"] != "Secret"])


def test_a_configuration_of_ones_own() -> None:
    objects = render_chart(values=OWN)
    assert files(objects) == {
        "/etc/pgbouncer/pgbouncer.ini": ("Secret", "own"),
        "/etc/pgbouncer/users.txt": ("Secret", "own"),
    }
    assert not [one for one in objects if one["kind"] == "ConfigMap" and one["metadata"]["name"] == NAME]
    assert NAME not in wanted_secrets(objects)


def test_what_the_keys_say_it_is_told() -> None:
    keys: dict[str, Any] = {
        "metadataPoolSize": 33,
        "maxClientConn": 444,
        "verbose": 2,
        "logConnections": 1,
        "logDisconnections": 1,
        "auth_type": "md5",
        "auth_file": "/own/users",
        "ciphers": "secure",
        "sslmode": "require",
        "extraIniMetadata": "min_pool_size={{ 2 }}",
        "extraIni": "server_idle_timeout = {{ 60 }}\nstats_users = airflow\n",
    }
    told = ini(render_chart(values=merge(ON, {"airflow": {"pgbouncer": keys}})))
    assert told["databases"]["trainyard-metadata"].endswith(" pool_size=33 min_pool_size=2")
    expected = {
        "max_client_conn": "444",
        "verbose": "2",
        "log_connections": "1",
        "log_disconnections": "1",
        "auth_type": "md5",
        "auth_file": "/own/users",
        "server_tls_ciphers": "secure",
        "server_tls_sslmode": "require",
        "server_idle_timeout": "60",
        "stats_users": "airflow",
    }
    assert expected.items() <= dict(told["pgbouncer"]).items()


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        ({}, "prefer"),
        ({"global": {"databaseTls": {"mode": "allow"}}}, "allow"),
        ({"airflow": {"pgbouncer": {"sslmode": "disable"}}}, "disable"),
        (merge(BY_PARTS, {"airflow": {"data": {"metadataConnection": {"sslmode": "require"}}}}), "require"),
    ],
)
def test_the_mode_of_tls_comes_from_where_it_is_said(values: Object, mode: str) -> None:
    assert ini(render_chart(values=merge(ON, values)))["pgbouncer"]["server_tls_sslmode"] == mode


def test_the_way_to_the_database_has_tls_and_the_way_to_it_has_none() -> None:
    """Who verifies the database is who talks to it."""
    objects = render_chart(values=merge(ON, TLS))
    told = ini(objects)["pgbouncer"]
    assert told["server_tls_sslmode"] == "verify-full"
    assert files(objects)["/etc/database-ca"] == ("Secret", "db-ca")
    assert told["server_tls_ca_file"] == "/etc/database-ca/ca.crt"
    named = set()
    for one in pods(objects):
        for container in containers(one):
            if "PGSSLMODE" in environment(container):
                named.add(container["name"])
    assert named == {"migrate-database", "mlflow", "prepare-database", "garbage-collection"}
    mounting = {
        container["name"]
        for one in pods(objects)
        for container in containers(one)
        if any(mount["name"] == "database-ca" for mount in container.get("volumeMounts", []))
    }
    assert mounting == named | {"pgbouncer"}


def test_certificates_in_values_become_a_secret() -> None:
    ssl = {"ca": "CA", "cert": "CERT", "key": "KEY"}
    annotated = {"ssl": ssl, "sslmode": "verify-ca", "certificatesSecretAnnotations": {"a": "b"}}
    objects = render_chart(values=merge(ON, {"airflow": {"pgbouncer": annotated}}))
    secret = find(objects, "Secret", f"{NAME}-certificates")
    assert secret["stringData"] == {"root.crt": "CA", "server.crt": "CERT", "server.key": "KEY"}
    assert secret["metadata"]["annotations"] == {"a": "b"}
    told = ini(objects)["pgbouncer"]
    for option in ("ca", "cert", "key"):
        assert files(objects)[told[f"server_tls_{option}_file"]] == ("Secret", f"{NAME}-certificates")


def test_it_runs_as_its_keys_say() -> None:
    keys = {
        "replicas": 3,
        "revisionHistoryLimit": 1,
        "command": ["pgbouncer", "-u", "nobody", "/{{ .Release.Name }}.ini"],
        "args": ["-v"],
        "uid": 70,
        "annotations": {"a": "b"},
        "podAnnotations": {"c": "d"},
        "labels": {"team": "data"},
        "env": [{"name": "E", "value": "f"}],
        "service": {"extraAnnotations": {"g": "h"}, "clusterIp": "10.96.0.9"},
        "serviceAccount": {"name": "pooler", "annotations": {"i": "j"}},
        "podDisruptionBudget": {"enabled": True, "config": {"minAvailable": 1}},
        "extraContainers": [{"name": "exporter", "image": "exporter:1"}],
        "extraVolumes": [{"name": "own", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "own", "mountPath": "/own"}],
        "nodeSelector": {"k": "l"},
        "containerLifecycleHooks": {"preStop": {"exec": {"command": ["stop"]}}},
    }
    objects = render_chart(
        values=merge(
            ON, {"airflow": {"pgbouncer": keys, "tolerations": [{"key": "a", "operator": "Exists"}]}}
        )
    )
    deployment = find(objects, "Deployment", NAME)
    assert (deployment["spec"]["replicas"], deployment["spec"]["revisionHistoryLimit"]) == (3, 1)
    assert deployment["metadata"]["annotations"] == {"a": "b"}
    assert pod_metadata(deployment)["annotations"]["c"] == "d"
    assert pod_metadata(deployment)["labels"].items() >= {"team": "data", "component": "pgbouncer"}.items()
    pod = pod_spec(deployment)
    assert pod["serviceAccountName"] == "pooler" and pod["automountServiceAccountToken"] is False
    assert pod["nodeSelector"] == {"k": "l"} and pod["tolerations"], "its own, and the chart's"
    context = pod["securityContext"]
    assert [context[key] for key in ("runAsUser", "runAsGroup", "fsGroup")] == [70, 70, 70]
    assert context["runAsNonRoot"] is True
    main, exporter = containers(deployment)
    assert main["command"][-1] == "/trainyard.ini" and main["args"] == ["-v"]
    assert main["env"] == [{"name": "E", "value": "f"}]
    assert main["lifecycle"] == {"preStop": {"exec": {"command": ["stop"]}}}
    assert "/own" in {mount["mountPath"] for mount in main["volumeMounts"]}
    assert exporter["name"] == "exporter"
    assert find(objects, "ServiceAccount", "pooler")["metadata"]["annotations"] == {"i": "j"}
    service = find(objects, "Service", NAME)
    assert service["metadata"]["annotations"] == {"g": "h"} and service["spec"]["clusterIP"] == "10.96.0.9"
    assert find(objects, "PodDisruptionBudget", f"{NAME}-pdb")["spec"]["minAvailable"] == 1


def test_transactions_end_before_it_does() -> None:
    """SIGINT lets them; the hook is done before Kubernetes kills the pod."""
    deployment = find(render_chart(values=ON), "Deployment", NAME)
    command = server(render_chart(values=ON))["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert "kill -INT 1" in command
    assert (
        sum(map(int, re.findall(r"sleep (\d+)", command)))
        < pod_spec(deployment)["terminationGracePeriodSeconds"]
    )
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize("values", [ON, BY_PARTS, merge(ON, TLS)], ids=["embedded", "by-parts", "tls"])
def test_nothing_refers_to_what_is_not_there(values: Object) -> None:
    made = {("Secret", "trainyard", name) for name in ("db-ca", "db-server") if "global" in values}
    assert References(render_chart(values=values), made).check() == []


def test_the_migration_is_the_same_with_and_without_it() -> None:
    names = [find(render_chart(values=values), "Job", "trainyard-migrate-database") for values in ({}, ON)]
    assert names[0] == names[1]


def test_arguments_of_ones_own_for_the_asynchronous_engine_stay() -> None:
    own = {"airflow": {"config": {"database": {"sql_alchemy_connect_args_async": "mine.ARGS"}}}}
    objects = render_chart(values=merge(ON, own))
    api = containers(find(objects, "Deployment", "trainyard-api-server"))[-1]
    assert ARGUMENTS not in environment(api)


def test_the_asynchronous_engine_names_no_statement() -> None:
    """In a pool of transactions a name is another client's as well."""
    module = load("../../charts/trainyard/charts/airflow/files/pgbouncer/pgbouncer_connections.py")
    arguments = dict(module.ASYNC)
    assert arguments.pop("prepared_statement_name_func")() == ""
    assert arguments == {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    config = find(render_chart(values=ON), "ConfigMap", "trainyard-config")["data"]
    assert "statement_cache_size" in config["pgbouncer_connections.py"]
    assert "pgbouncer_connections.py" not in find(render_chart(), "ConfigMap", "trainyard-config")["data"]


def test_the_chart_alone_has_it_too() -> None:
    alone = CHART / "charts/airflow"
    with pytest.raises(
        ChartError, match=r"airflow\.pgbouncer\.enabled: .* airflow\.data\.metadataConnection"
    ):
        render_chart(chart=alone, values=ON["airflow"])
    objects = render_chart(chart=alone, values=BY_PARTS["airflow"])
    assert ini(objects)["databases"]["trainyard-metadata"].startswith("host=db.example.com")
    assert find(objects, "Secret", NAME)
