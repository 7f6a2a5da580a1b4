"""PgBouncer between Airflow and the embedded database: all of Airflow goes through it, in few connections.

It becomes the release for the time of these tests, and is as before afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import DAG, NAMESPACE, RUN_SECONDS, Run, released_with
from kubernetes import client
from pods import PodRecorder, component_of, epochs_done, output_of, wait_until
from trainyard_cli.airflow_api import FINAL_RUN_STATES, Airflow

pytestmark = [pytest.mark.alone, pytest.mark.nightly]

POOL_SIZE = 6
VALUES = {
    "airflow": {
        "pgbouncer": {"enabled": True, "metadataPoolSize": POOL_SIZE, "extraIni": "stats_users = airflow"}
    }
}
CONNECTIONS = """SELECT coalesce(json_agg(host(client_addr)), '[]') FROM pg_stat_activity
    WHERE datname = 'airflow' AND backend_type = 'client backend'"""
EPOCHS = 20
# By Airflow's own engines, more transactions at a time than the pool has connections.
ENGINES = """
import asyncio, json
from airflow import settings
from sqlalchemy import text
async def ask(number):
    async with settings.async_engine.begin() as connection:
        await connection.execute(text("SELECT pg_sleep(0.01)"))
        return (await connection.execute(text("SELECT CAST(:n AS int)"), {"n": number})).scalar()
async def ask_all():
    answers = await asyncio.gather(*(ask(number) for number in range(200)))
    await settings.async_engine.dispose()  # at the end of the process it would complain
    return answers
with settings.engine.connect() as connection:
    synchronous = connection.execute(text("SELECT 1")).scalar()
hosts = [engine.url.host for engine in (settings.engine, settings.async_engine)]
drivers = [engine.dialect.driver for engine in (settings.engine, settings.async_engine)]
right = asyncio.run(ask_all()) == list(range(200))
print(json.dumps({"hosts": hosts, "drivers": drivers, "synchronous": synchronous, "right": right}))
"""
# What PgBouncer says of itself: it has a database of its own, which knows no transactions.
POOLS = """
import json, os, re
import psycopg2
url = re.sub(r"\\+\\w+", "", os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], count=1)
connection = psycopg2.connect(url.rpartition("/")[0] + "/pgbouncer")
connection.autocommit = True
cursor = connection.cursor()
cursor.execute("SHOW POOLS")
names = [column[0] for column in cursor.description]
print(json.dumps([dict(zip(names, row)) for row in cursor.fetchall()], default=str))
"""


@pytest.fixture(scope="module", autouse=True)
def pooled(airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The release with PgBouncer."""
    with released_with(VALUES, airflow, tmp_path_factory.mktemp("pgbouncer")):
        yield


@pytest.fixture(scope="module")
def addresses(core: client.CoreV1Api) -> Callable[[], list[str]]:
    """Where the connections to Airflow's database come from, one address for each."""

    def _addresses() -> list[str]:
        query = ("psql", "-U", "postgres", "-tAc", CONNECTIONS)
        return json.loads(output_of(core, "trainyard-postgresql-0", NAMESPACE, *query))

    return _addresses


def address_of(core: client.CoreV1Api) -> str:
    """Where PgBouncer is."""
    pod = core.read_namespaced_pod(component_of(core, "pgbouncer", NAMESPACE), NAMESPACE)
    return pod.status.pod_ip


def wait_for_it_alone(core: client.CoreV1Api, addresses: Callable[[], list[str]]) -> None:
    """Pods from before the upgrade may still be ending."""
    wait_until("PgBouncer to be the only one that connects", lambda: set(addresses()) == {address_of(core)})


def test_a_training_run_takes_no_connection_but_its(
    core: client.CoreV1Api,
    airflow: Airflow,
    addresses: Callable[[], list[str]],
    trigger: Callable[..., str],
    finish: Callable[..., Run],
) -> None:
    wait_for_it_alone(core, addresses)
    run_id = trigger("pooled")
    seen: list[list[str]] = []

    def has_ended() -> bool:
        seen.append(addresses())
        return airflow.dag_run(DAG, run_id)["state"] in FINAL_RUN_STATES

    wait_until(f"run {run_id} to end", has_ended, seconds=RUN_SECONDS)
    assert finish(run_id).state == "success"
    assert len(seen) > 5, "the run was over before anybody looked"
    assert {address for each in seen for address in each} == {address_of(core)}
    assert 1 <= max(map(len, seen)) <= POOL_SIZE


def test_jobs_that_use_the_database_go_through_it_as_well(
    core: client.CoreV1Api, addresses: Callable[[], list[str]], trigger, finish
) -> None:
    run = finish(trigger("pooled", dag="maintenance", dry_run=True), dag="maintenance")
    assert run.tasks["airflow_database"]["state"] == "success"
    wait_for_it_alone(core, addresses)


def test_both_engines_of_airflow_go_through_it(
    in_component: Callable[[str, str], Any], addresses: Callable[[], list[str]]
) -> None:
    found = in_component("api-server", ENGINES)
    assert found["drivers"] == ["psycopg2", "asyncpg"]
    assert found["hosts"] == [f"trainyard-pgbouncer.{NAMESPACE}.svc"] * 2
    assert found["synchronous"] == 1 and found["right"] is True
    assert len(addresses()) <= POOL_SIZE


def test_many_clients_share_few_connections(in_component: Callable[[str, str], Any]) -> None:
    (pool,) = (each for each in in_component("api-server", POOLS) if each["database"] != "pgbouncer")
    assert pool["database"] == "trainyard-metadata" and pool["pool_mode"] == "transaction"
    clients = int(pool["cl_active"]) + int(pool["cl_waiting"])
    servers = sum(int(pool[f"sv_{state}"]) for state in ("active", "idle", "used", "tested", "login"))
    assert servers <= POOL_SIZE and clients >= 4, pool


def test_a_killed_one_loses_no_run(
    core: client.CoreV1Api,
    addresses: Callable[[], list[str]],
    trigger: Callable[..., str],
    finish: Callable[..., Run],
    recorder: PodRecorder,
) -> None:
    run_id = trigger("unpooled", epochs=EPOCHS, epoch_seconds=1)
    pod = recorder.wait_for_running(run_id, seconds=300)
    wait_until("an epoch to be done", lambda: epochs_done(core, pod) > 1)
    old = component_of(core, "pgbouncer", NAMESPACE)
    # SIGKILL: transactions break off.
    core.delete_namespaced_pod(old, NAMESPACE, grace_period_seconds=0)
    run = finish(run_id)
    assert run.state == "success"
    assert run.tasks["train"]["try_number"] == 1, "a lost connection must not use up a try"
    assert component_of(core, "pgbouncer", NAMESPACE) != old
    wait_for_it_alone(core, addresses)
