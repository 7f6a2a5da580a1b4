"""Lineage events lead from the data by way of the run to the version of the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from conftest import DAG, NAMESPACE, up, wait_for_platform_file
from kubernetes import client
from pods import component_of, log_of, output_of, pods_that_stay, sync_mounts, wait_until
from receiver import NAME, PORT, receiver_pod
from trainyard_cli.mlflow_api import ModelVersion

pytestmark = [pytest.mark.alone, pytest.mark.nightly]

SCRATCH = "e2e-lineage"
WORKER = {"limits": {"memory": "1111Mi"}}


@pytest.fixture(scope="module")
def events(
    core: client.CoreV1Api, platform: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What a receiver has got that the release sends its events to; afterwards it sends none again."""
    with receiver_pod(core, platform["training"], SCRATCH) as pod:
        values = tmp_path_factory.mktemp("values") / "lineage.yaml"
        address = f"{pod.status.pod_ip}:{PORT}"
        changed = {"openlineage": {"url": f"http://{address}"}, "airflow": {"workers": {"resources": WORKER}}}
        values.write_text(json.dumps(changed))
        try:
            before = pods_that_stay(core, NAMESPACE)
            up("--values", values)
            assert pods_that_stay(core, NAMESPACE) == before, "what is read anew restarts nothing"
            wait_for_platform_file(core, lambda text: address in text)
            yield lambda: [json.loads(line) for line in log_of(core, NAME, SCRATCH).splitlines()]
        finally:
            up()
            wait_for_platform_file(core, lambda text: address not in text)


def test_the_next_worker_pod_has_other_resources(events, core: client.CoreV1Api) -> None:
    """Airflow reads this file for each pod: tests/dags/test_airflow_compat.py."""

    def limits() -> dict[str, str]:
        scheduler = component_of(core, "scheduler", NAMESPACE)
        text = output_of(
            core, scheduler, NAMESPACE, "cat", "/opt/airflow/pod_templates/pod_template_file.yaml"
        )
        return yaml.safe_load(text)["spec"]["containers"][0]["resources"]["limits"]

    sync_mounts(core, "scheduler", NAMESPACE)
    wait_until("the scheduler to see it", lambda: limits().items() >= WORKER["limits"].items(), seconds=240)


def test_events_lead_from_the_data_to_the_version(
    events, trigger, finish, versions: Callable[..., list[ModelVersion]]
) -> None:
    run = finish(trigger("lineage", epochs=1, min_f1=0))
    assert run.state == "success"
    mine = [event for event in events() if event["run"]["facets"]["parent"]["job"]["name"] == DAG]
    done = {
        event["job"]["name"].partition(".")[2]: event for event in mine if event["eventType"] == "COMPLETE"
    }
    for task in ("validate", "preprocess", "train", "evaluate"):
        started = [e for e in mine if e["job"]["name"] == f"{DAG}.{task}" and e["eventType"] == "START"]
        assert [event["run"]["runId"] for event in started] == [done[task]["run"]["runId"]]

    assert named(done["validate"]["inputs"]) == {("sklearn", "digits", None)}
    assert named(done["preprocess"]["inputs"]) == named(done["validate"]["outputs"])
    (data,) = named(done["preprocess"]["outputs"])
    (version,) = versions(run.run_id)
    assert data == ("file", "/data/processed/digits", version.tags["trainyard.data_version"])
    assert data in named(done["train"]["inputs"])
    models = {one for one in named(done["train"]["outputs"]) if one[0] == "mlflow"}
    assert models and models == named(done["promote"]["inputs"])
    assert named(done["promote"]["outputs"]) == {("mlflow", version.name, str(version.version))}


def named(datasets: list[dict[str, Any]]) -> set[tuple[str, str, str | None]]:
    """Namespace, name and version of each."""
    return {
        (one["namespace"], one["name"], one["facets"].get("version", {}).get("datasetVersion"))
        for one in datasets
    }
