"""Rendering again changes nothing; changing something changes what it should, and only that."""

from __future__ import annotations

import pytest
from components import VARIANTS
from render import Object, find, pod_metadata, render_chart, render_text

JOBS = ("trainyard-migrate-database", "trainyard-bootstrap-secrets", "trainyard-airflow-pools")


def job_names(values: Object | None = None) -> dict[str, str]:
    objects = render_chart(values=values)
    return {name: find(objects, "Job", name)["metadata"]["name"] for name in JOBS}


FIRST = ((), ("production.yaml", "dags-from-git.yaml"))
OTHERS = [pytest.param(files, marks=pytest.mark.exhaustive) for files in VARIANTS if files not in FIRST]


@pytest.mark.parametrize("files", [*FIRST, *OTHERS])
def test_two_renders_are_the_same_bytes(files: tuple[str, ...]) -> None:
    assert render_text(files=files) == render_text(files=files, fresh=True)


def test_a_new_image_makes_new_jobs() -> None:
    before, after = job_names(), job_names({"airflow": {"images": {"airflow": {"tag": "next"}}}})
    assert all(before[name] != after[name] for name in JOBS)


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        ({"airflow": {"config": {"core": {"parallelism": 7}}}}, {"trainyard-migrate-database"}),
        ({"gpuPools": {"spot": {"nodes": {"max": 5}}}}, {"trainyard-airflow-pools"}),
        ({"secrets": {"external": ["trainyard-admin"]}}, {"trainyard-bootstrap-secrets"}),
        ({"airflow": {"apiServer": {"replicas": 3}}}, set()),
    ],
)
def test_a_job_is_new_only_when_what_it_runs_changes(values: Object, changed: set[str]) -> None:
    before, after = job_names(), job_names(values)
    assert {name for name in JOBS if before[name] != after[name]} == changed


def test_changed_configuration_rolls_the_pods_that_read_it() -> None:
    def checksum(values: Object | None) -> str:
        scheduler = find(render_chart(values=values), "Deployment", "trainyard-scheduler")
        return pod_metadata(scheduler)["annotations"]["checksum/config"]

    assert checksum(None) != checksum({"airflow": {"config": {"core": {"parallelism": 7}}}})
    assert checksum(None) == checksum({"airflow": {"apiServer": {"replicas": 3}}})


def test_claims_that_hold_data_outlive_the_release() -> None:
    objects = render_chart()
    claims = [one for one in objects if one["kind"] == "PersistentVolumeClaim"]
    assert {one["metadata"]["name"] for one in claims} == {
        "datasets",
        "checkpoints",
        "airflow-logs",
        "trainyard-mlflow-artifacts",
    }
    for one in [*claims, find(objects, "Namespace", "ml-training")]:
        assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
