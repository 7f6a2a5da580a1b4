"""Airflow's metrics by StatsD: the exporter has them, with labels, for Prometheus to fetch.

It becomes the release for the time of these tests, and is as before afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import DAG, NAMESPACE, released_with
from kubernetes import client
from local_images import built_and_loaded
from pods import wait_until
from trainyard_cli.airflow_api import Airflow

pytestmark = [pytest.mark.alone, pytest.mark.nightly]

SERVICE = "trainyard-statsd:statsd-scrape"
SERIES = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$", re.M)


@pytest.fixture(scope="module", autouse=True)
def counted(airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The release with the exporter."""
    repository, _, tag = built_and_loaded("statsd-exporter").rpartition(":")
    image = {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"}
    values = {"airflow": {"statsd": {"enabled": True}, "images": {"statsd": image}}}
    with released_with(values, airflow, tmp_path_factory.mktemp("statsd")):
        yield


@pytest.fixture(scope="module")
def metrics(core: client.CoreV1Api) -> Callable[[], dict[tuple[str, str], float]]:
    """What Prometheus would fetch: (name, labels) -> value."""

    def _metrics() -> dict[tuple[str, str], float]:
        # As bytes: what the client makes of a text is not the text.
        answer = core.connect_get_namespaced_service_proxy_with_path(
            SERVICE, NAMESPACE, "metrics", _preload_content=False
        )
        found = SERIES.findall(answer.data.decode())
        return {(name, labels): float(value) for name, labels, value in found}

    return _metrics


def test_every_part_of_airflow_counts(metrics: Callable[..., Any]) -> None:
    beats = ("airflow_scheduler_heartbeat", "airflow_dag_processor_heartbeat", "airflow_triggerer_heartbeat")
    first = wait_until(
        "the heartbeats", lambda: (now := metrics()) and all((beat, "") in now for beat in beats) and now
    )
    wait_until("more of them", lambda: all(metrics()[beat, ""] > first[beat, ""] for beat in beats))


def test_a_run_is_counted_by_its_dag(
    metrics: Callable[..., Any], trigger: Callable[..., str], finish: Callable[..., Any]
) -> None:
    def counted() -> float:
        """How many runs of the DAG it has seen succeed."""
        return metrics().get(("airflow_dagrun_duration_count", f'dag_id="{DAG}"'), 0)

    before = counted()
    assert finish(trigger("statsd")).state == "success"
    wait_until("the run to be counted", lambda: counted() > before)
    # Each name with a DAG in it is one metric.
    assert not [name for name, _ in metrics() if DAG in name]


def test_pools_are_told_by_name(metrics: Callable[..., Any]) -> None:
    pools = {labels for name, labels in metrics() if name == "airflow_pool_open_slots"}
    assert 'pool="default_pool"' in pools and "" not in pools
