"""The embedded database with a certificate: whoever connects verifies it, and nobody connects without TLS.

It becomes the release for the time of these tests, and is as before afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from authority import Authority
from conftest import NAMESPACE, released_with
from kubernetes import client
from pods import if_there, output_of, sync_mounts, wait_until

pytestmark = [pytest.mark.alone, pytest.mark.nightly]

HOST = f"trainyard-postgresql.{NAMESPACE}.svc"
SERVER, CA = "e2e-database-server", "e2e-database-ca"
VALUES = {
    "global": {"databaseTls": {"mode": "verify-full", "caSecretName": CA}},
    "postgresql": {"tlsSecretName": SERVER},
}
# By Airflow's own engines, as its components use them.
ENGINES = """
import asyncio, json
from airflow import settings
from sqlalchemy import text
encrypted = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
async def ask():
    async with settings.async_engine.connect() as connection:
        answer = (await connection.execute(encrypted)).scalar()
    await settings.async_engine.dispose()  # at the end of the process it would complain
    return answer
with settings.engine.connect() as connection:
    answer = connection.execute(encrypted).scalar()
drivers = settings.engine.dialect.driver, settings.async_engine.dialect.driver
print(json.dumps(dict(zip(drivers, (answer, asyncio.run(ask()))))))
"""
# By the drivers themselves: what each says where the environment and the host are others.
DRIVERS = """
import asyncio, json, os, pathlib, re
import asyncpg, psycopg2
pathlib.Path("/tmp/e2e-ca.crt").write_text(CA)
os.environ.update(ENVIRONMENT)
url = re.sub(r"\\+\\w+", "", os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], count=1).replace(*HOST)
async def ask():
    await (await asyncpg.connect(url, timeout=20)).close()
connections = {"psycopg2": lambda: psycopg2.connect(url).close(), "asyncpg": lambda: asyncio.run(ask())}
said = {}
for name, connect in connections.items():
    try:
        connect()
        said[name] = "connected"
    except Exception as error:
        said[name] = str(error)
print(json.dumps(said))
"""


PRESENT, NEXT, STRANGER = map(Authority, ("e2e present", "e2e next", "e2e stranger"))


def put_secret(core: client.CoreV1Api, name: str, texts: dict[str, str]) -> None:
    """Make a Secret, or what is there of that name anew."""
    if_there(core.delete_namespaced_secret, name, NAMESPACE)
    body = {"metadata": {"name": name}, "stringData": texts}
    core.create_namespaced_secret(NAMESPACE, body)


@pytest.fixture(scope="module", autouse=True)
def over_tls(airflow, core: client.CoreV1Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The release with a certificate of the present CA for its database; clients know the next CA as well."""
    put_secret(core, SERVER, PRESENT.server(HOST))
    put_secret(core, CA, {"ca.crt": PRESENT.certificate + NEXT.certificate})
    try:
        with released_with(VALUES, airflow, tmp_path_factory.mktemp("tls")):
            yield
    finally:
        for name in (SERVER, CA):
            core.delete_namespaced_secret(name, NAMESPACE)


@pytest.fixture(scope="module")
def in_database(core: client.CoreV1Api) -> Callable[..., str]:
    """Runs a command in the server's pod."""
    return lambda *command: output_of(core, "trainyard-postgresql-0", NAMESPACE, *command)


@pytest.fixture(scope="module")
def drivers(in_component: Callable[[str, str], Any]) -> Callable[..., dict[str, str]]:
    """What each driver says in the api-server, with another environment, host or CA (in /tmp/e2e-ca.crt)."""

    def _drivers(ca: str = "", host: str = HOST, **environment: str) -> dict[str, str]:
        head = f"CA, HOST, ENVIRONMENT = {ca!r}, {(HOST, host)!r}, {environment!r}\n"
        return in_component("api-server", head + DRIVERS)

    return _drivers


def test_a_run_ends_well_also_of_the_jobs_that_it_starts(trigger, finish) -> None:
    run = finish(trigger("tls", dag="maintenance", dry_run=True), dag="maintenance")
    states = {task_id: task["state"] for task_id, task in run.tasks.items()}
    assert states == dict.fromkeys(("checkpoints", "airflow_database", "mlflow_garbage"), "success")


def test_every_connection_is_encrypted(mlflow, in_database: Callable[..., str]) -> None:
    assert mlflow.get("experiments/search", {"max_results": 1})["experiments"]
    query = """SELECT json_agg(row_to_json(each)) FROM (
        SELECT usename, ssl, version FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
        WHERE datname IN ('airflow', 'mlflow')) AS each"""
    found = json.loads(in_database("psql", "-U", "postgres", "-tAc", query))
    assert {each["usename"] for each in found} == {"airflow", "mlflow"}
    assert all(each["ssl"] and each["version"] in ("TLSv1.2", "TLSv1.3") for each in found), found


def test_both_engines_of_airflow_use_it(in_component: Callable[[str, str], Any]) -> None:
    assert in_component("api-server", ENGINES) == {"psycopg2": True, "asyncpg": True}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({}, "connected", id="as it is"),
        pytest.param({"PGSSLMODE": "disable"}, "no encryption", id="without TLS"),
        pytest.param(
            {"ca": STRANGER.certificate, "PGSSLROOTCERT": "/tmp/e2e-ca.crt"},
            "certificate verify failed",
            id="by another CA",
        ),
        pytest.param({"host": HOST.removesuffix(".svc")}, "match", id="by a name that it does not have"),
    ],
)
def test_who_connects_otherwise_is_refused(change: dict[str, str], says: str, drivers) -> None:
    said = drivers(**change)
    assert said.keys() == {"psycopg2", "asyncpg"}
    assert all(says in text for text in said.values()), said


def test_a_renewed_certificate_is_served_after_a_reload(
    core: client.CoreV1Api, in_database: Callable[..., str], drivers
) -> None:
    next_alone = {"ca": NEXT.certificate, "PGSSLROOTCERT": "/tmp/e2e-ca.crt"}
    assert "connected" not in drivers(**next_alone).values()
    renewed = NEXT.server(HOST)
    core.patch_namespaced_secret(SERVER, NAMESPACE, {"stringData": renewed})
    sync_mounts(core, "database", NAMESPACE)
    wait_until(
        "the certificate", lambda: in_database("cat", "/etc/postgresql-tls/tls.crt") == renewed["tls.crt"]
    )
    in_database("pg_ctl", "reload")
    wait_until(
        "the server to serve it", lambda: set(drivers(**next_alone).values()) == {"connected"}, seconds=30
    )
    assert set(drivers().values()) == {"connected"}
