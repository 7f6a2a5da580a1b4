"""Rendering again changes nothing; changing something changes what it should, and only that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from components import VARIANTS
from render import Object, find, identity, pod_metadata, pod_spec, pods, render_chart, render_text
from trainyard_cli.chart import merge

RESTARTS = yaml.safe_load((Path(__file__).parent / "restarts.yaml").read_text())


FIRST = ((), ("production.yaml", "dags-from-git.yaml"))
OTHERS = [pytest.param(files, marks=pytest.mark.exhaustive) for files in VARIANTS if files not in FIRST]


@pytest.mark.parametrize("files", [*FIRST, *OTHERS])
def test_two_renders_are_the_same_bytes(files: tuple[str, ...]) -> None:
    assert render_text(files=files) == render_text(files=files, fresh=True)


def one_of_each_part() -> Iterator[Any]:
    """The changes; where a part of the chart, such as airflow.scheduler, has had one, they are exhaustive."""
    seen = set()
    for case in RESTARTS:
        top, below = next(iter(case["values"].items()))
        part = (top, next(iter(below), "") if isinstance(below, dict) else "")
        marks = [pytest.mark.exhaustive] if part in seen else []
        seen.add(part)
        yield pytest.param(case, marks=marks, id=str(case["values"])[:60])


@pytest.mark.parametrize("case", one_of_each_part())
def test_a_change_restarts_what_reads_it_and_nothing_else(case: Object) -> None:
    base = case.get("base", {})
    before, after = (made(render_chart(values=values)) for values in (base, merge(base, case["values"])))
    changed = {place for place in before | after if before.get(place) != after.get(place)}
    expected = {
        (what, f"trainyard-{name}".replace("trainyard-worker", "placeholder-name"))
        for what in ("restarts", "new_jobs", "next_pods")
        for name in flat(case.get(what, []))
    }
    assert changed == expected


def made(objects: list[Object]) -> dict[tuple[str, str], str]:
    """The pods that are made, by what becomes of a change and by name; a Job's name stands for its pods.

    Kubernetes takes no other pods for a Job that is there: one without a new name would stop the upgrade.
    """
    found = {}
    for one in pods(objects):
        kind, name = identity(one)
        what = {"Job": "new_jobs", "CronJob": "next_pods", "Pod": "next_pods"}.get(kind, "restarts")
        template = json.dumps([pod_metadata(one), pod_spec(one)], sort_keys=True)
        found[what, name] = one["metadata"]["name"] if kind == "Job" else template
    return found


def test_only_what_the_chart_refuses_changes_what_kubernetes_does_not() -> None:
    """An upgrade would stop half way: templates/_changes.tpl asks a cluster for these, and no others."""
    found = set()
    for case in RESTARTS:
        values = case.get("base", {})
        before, after = (fixed(render_chart(values=each)) for each in (values, merge(values, case["values"])))
        found |= {place[0] for place in before.keys() & after.keys() if before[place] != after[place]}
    assert found == {"PersistentVolumeClaim", "PriorityClass", "StatefulSet"}


def fixed(objects: list[Object]) -> dict[tuple[str, str], Any]:
    """What no update may change of the objects that are no Jobs, by kind and name."""
    found = {}
    for one in objects:
        match one["kind"]:
            case "StatefulSet":
                may = ("template", "replicas", "updateStrategy", "revisionHistoryLimit", "minReadySeconds")
                parts = {key: value for key, value in one["spec"].items() if key not in may}
            case "Deployment" | "DaemonSet":
                parts = one["spec"]["selector"]
            case "RoleBinding" | "ClusterRoleBinding":
                parts = one["roleRef"]
            case "PersistentVolumeClaim":
                parts = {key: value for key, value in one["spec"].items() if key != "resources"}
            case "PriorityClass":
                parts = [one["value"], one["preemptionPolicy"]]
            case "Service":
                parts = one["spec"].get("clusterIP")
            case "Secret" | "ConfigMap":
                parts = [one.get("immutable"), one.get("type")]
            case _:
                continue
        found[identity(one)] = parts
    return found


def flat(names: list[Any]) -> Iterator[str]:
    """Names out of a list that may hold lists."""
    for one in names:
        yield from one if isinstance(one, list) else [one]


def test_a_job_with_other_pods_has_another_name() -> None:
    templates: dict[str, set[str]] = {}
    for case in RESTARTS:
        for one in render_chart(values=merge(case.get("base", {}), case["values"])):
            if one["kind"] == "Job":
                template = json.dumps(one["spec"]["template"], sort_keys=True)
                templates.setdefault(one["metadata"]["name"], set()).add(template)
    assert {name for name, found in templates.items() if len(found) > 1} == set()


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
