"""Whoever connects to a database does it by TLS as global.databaseTls says; who that is, the render says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from references import References
from render import (
    CHART,
    POD_KINDS,
    ChartError,
    Object,
    containers,
    environment,
    find,
    identity,
    pod_spec,
    pods,
    render_chart,
    render_text,
    wanted_secrets,
)
from trainyard_cli.chart import merge

CLIENTS: Object = {"global": {"databaseTls": {"mode": "verify-full", "caSecretName": "db-ca"}}}
EMBEDDED: Object = {**CLIENTS, "postgresql": {"tlsSecretName": "db-server"}}
EXTERNAL: Object = {**CLIENTS, "postgresql": {"enabled": False}}
OWN_AIRFLOW: Object = {"airflow": {"enabled": False}}
BY_PARTS: Object = {"airflow": {"data": {"metadataConnection": {"host": "db.example.com", "user": "a"}}}}
MADE_BY_OTHERS = {("Secret", "trainyard", name) for name in ("db-ca", "db-server")}
MOUNT = "/etc/database-ca"


def urls(objects: list[Object]) -> set[tuple[str, str]]:
    """Secret and key of each database's URL: those that the bootstrap Job composes, and the chart's own."""
    composed = {
        (secret, key)
        for secret, keys in wanted_secrets(objects).items()
        for key, recipe in keys.items()
        if "postgresql" in recipe.get("template", "").partition("://")[0]
    }
    made = {
        (one["metadata"]["name"], key)
        for one in objects
        if one["kind"] == "Secret"
        for key, value in one.get("stringData", {}).items()
        if value.startswith("postgresql")
    }
    return composed | made


def all_containers(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    has_workers = ("ConfigMap", "trainyard-pod-template") in map(identity, objects)
    for one in pods(objects) if has_workers else [one for one in objects if one["kind"] in POD_KINDS]:
        yield from ((one, container) for container in containers(one))


def holds_url(container: Object, known: set[tuple[str, str]]) -> bool:
    """Whether it has a URL, or the file into which a backup's pod writes its URLs."""
    if any(mount["name"] == "connections" for mount in container.get("volumeMounts", [])):
        return True
    references = [
        value.get("secretKeyRef", {}) for value in environment(container).values() if isinstance(value, dict)
    ]
    return any((each.get("name"), each.get("key")) in known for each in references)


AIRFLOW = {
    *("api-server", "scheduler", "dag-processor", "triggerer", "wait-for-airflow-migrations"),
    *("migrate-database", "database-cleanup", "reconciler"),
}
MLFLOW = {"mlflow", "prepare-database", "garbage-collection"}
BACKUP = {"check", "connections", "dump", "save"}
RESTORE = {"fetch", "check-airflow", "check-mlflow", "artifacts", "databases"}


@pytest.mark.parametrize(
    ("values", "connecting"),
    [
        pytest.param(EMBEDDED, AIRFLOW | MLFLOW, id="embedded"),
        pytest.param(EXTERNAL, AIRFLOW | MLFLOW, id="external"),
        pytest.param({**EXTERNAL, **BY_PARTS}, AIRFLOW | MLFLOW, id="by-parts"),
        pytest.param(
            {**EMBEDDED, "backup": {"enabled": True}}, AIRFLOW | MLFLOW | BACKUP | RESTORE, id="backup"
        ),
        pytest.param({**EMBEDDED, **OWN_AIRFLOW}, MLFLOW, id="own-airflow"),
        pytest.param({**EXTERNAL, **OWN_AIRFLOW}, MLFLOW, id="own-airflow-external"),
    ],
)
def test_who_has_a_url_has_the_mode_and_the_ca_and_nobody_else(values: Object, connecting: set[str]) -> None:
    objects = render_chart(values=values)
    # The Secrets of an external database have the names of those that are composed for the embedded one.
    known = urls(render_chart()) | urls(objects)
    found = set()
    for one, container in all_containers(objects):
        variables = environment(container)
        has = {name: variables.get(name) for name in ("PGSSLMODE", "PGSSLROOTCERT")}
        mounts = [each for each in container.get("volumeMounts", []) if each["mountPath"] == MOUNT]
        where = (*identity(one), container["name"])
        if holds_url(container, known):
            found.add(container["name"])
            assert has == {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": f"{MOUNT}/ca.crt"}, where
            assert mounts == [{"name": "database-ca", "mountPath": MOUNT, "readOnly": True}], where
            (volume,) = (each for each in pod_spec(one)["volumes"] if each["name"] == "database-ca")
            assert volume["secret"] == {
                "secretName": "db-ca",
                "items": [{"key": "ca.crt", "path": "ca.crt"}],  # not the key that may lie beside it
            }, where
        else:
            assert not mounts and has == dict.fromkeys(has), where
    assert found == connecting


def test_without_a_mode_nobody_is_told_anything() -> None:
    told = json.dumps(render_chart())
    assert not any(word in told for word in ("PGSSL", "database-ca", "postgresql-tls", "ssl=on"))


def test_a_mode_that_checks_nothing_needs_no_ca() -> None:
    objects = render_chart(
        values=merge(EXTERNAL, {"global": {"databaseTls": {"mode": "require", "caSecretName": ""}}})
    )
    told = json.dumps(objects)
    assert '"require"' in told and "PGSSLROOTCERT" not in told and "database-ca" not in told


def test_an_embedded_database_with_a_certificate_takes_tls_alone() -> None:
    objects = render_chart(values=EMBEDDED)
    server = find(objects, "StatefulSet", "trainyard-postgresql")
    (container,) = containers(server)
    settings = dict(each.split("=", 1) for each in container["args"] if "=" in each)
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "tls")
    (volume,) = (each for each in pod_spec(server)["volumes"] if each["name"] == "tls")
    assert settings["ssl"] == "on" and settings["max_connections"] == "200"
    paths = [settings[name] for name in ("ssl_cert_file", "ssl_key_file", "hba_file")]
    assert paths == [f"{mount['mountPath']}/{name}" for name in ("tls.crt", "tls.key", "pg_hba.conf")]
    # PostgreSQL refuses a key that others than its owner root and a group may read.
    assert volume["projected"]["defaultMode"] == 0o440
    hba = find(objects, "ConfigMap", "trainyard-postgresql-tls")["data"]["pg_hba.conf"]
    rules = [line.split() for line in hba.splitlines() if not line.startswith("#")]
    assert [rule[0] for rule in rules] == ["local", "hostssl"]
    assert rules[1][1:] == ["all", "all", "all", "scram-sha-256"]


def test_its_secrets_are_named_where_they_are_needed() -> None:
    objects = render_chart(values=EMBEDDED)
    assert References(objects, MADE_BY_OTHERS).check() == []
    for one in MADE_BY_OTHERS:
        assert References(objects, MADE_BY_OTHERS - {one}).check(), one


@pytest.mark.parametrize("name", ["airflow", "mlflow"])
def test_a_subchart_alone_needs_the_ca_as_well(name: str) -> None:
    alone = CHART / "charts" / name
    objects = render_chart(chart=alone, values=CLIENTS)
    assert f"{MOUNT}/ca.crt" in json.dumps(objects)
    with pytest.raises(
        ChartError, match=r"global\.databaseTls\.caSecretName: needed where mode is verify-ca"
    ):
        render_chart(chart=alone, values={"global": {"databaseTls": {"mode": "verify-ca"}}})


def test_null_is_no_tls() -> None:
    text = render_text(values={"global": {"databaseTls": None}, "postgresql": {"tlsSecretName": None}})
    assert text == render_text()
