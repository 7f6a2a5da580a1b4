"""What Kubernetes does not change is refused, and nothing else: by objects as they would be on a cluster.

That they are looked up is tests/e2e/test_release.py's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from render import HELM, ROOT, find, render_chart

CLAIM = {
    "key": "training.volumes.datasets",
    "name": "datasets",
    "accessMode": "ReadWriteMany",
    "size": "10Gi",
    "storageClassName": "fast",
}
CLASS = {"allowVolumeExpansion": True}
TEMPLATE = "{{ include .Values.template .Values.params | trim | quote }}"


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chart that prints what a template of the charts says of its values."""
    directory = tmp_path_factory.mktemp("chart")
    (directory / "Chart.yaml").write_text("{apiVersion: v2, name: changes, version: 0.0.0}")
    (directory / "templates").mkdir()
    (directory / "templates/says.yaml").write_text(f"says: {TEMPLATE}\n")
    charts = ROOT / "charts/trainyard/charts"
    shutil.copytree(charts / "common", directory / "charts/common")
    shutil.copy(charts / "postgresql/templates/_problems.tpl", directory / "templates")
    return directory


def said(chart: Path, template: str, **params: Any) -> str:
    values = json.dumps({"template": template, "params": params})
    command = [HELM, "template", "changes", str(chart), "--values", "-"]
    done = subprocess.run(command, input=values, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.partition("says: ")[2])


def there(size: str = "10Gi", volume: str | None = "10Gi", **spec: Any) -> dict[str, Any]:
    """A claim on the cluster; without a volume it is not bound."""
    status = {"phase": "Bound", "capacity": {"storage": volume}} if volume else {"phase": "Pending"}
    given = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": size}}}
    return {"metadata": {}, "spec": {"storageClassName": "fast", **given, **spec}, "status": status}


def made_with(*fields: str) -> dict[str, Any]:
    """A claim for which Helm asked with these fields of its spec; the others are the cluster's."""
    of_helm = {"manager": "helm", "fieldsV1": {"f:spec": {f"f:{field}": {} for field in fields}}}
    of_volume = {"manager": "kube-controller-manager", "fieldsV1": {"f:status": {"f:phase": {}}}}
    return {**there(), "metadata": {"managedFields": [of_helm, of_volume]}}


def without_class(one: dict[str, Any]) -> dict[str, Any]:
    return {**one, "spec": {key: value for key, value in one["spec"].items() if key != "storageClassName"}}


@pytest.mark.parametrize(
    ("claim", "one", "storage_class"),
    [
        pytest.param({}, there(), {}, id="as it is"),
        pytest.param({"size": "10240Mi"}, there(), {}, id="in other words"),
        pytest.param({"storageClassName": ""}, made_with("accessModes"), {}, id="any class"),
        pytest.param({"storageClassName": "-"}, there(storageClassName=""), {}, id="no class"),
        pytest.param({}, without_class(there()), {}, id="a class where there was none"),
        pytest.param({"size": "20Gi"}, there(), CLASS, id="larger"),
        pytest.param({"size": "15Gi"}, there(size="20Gi"), {}, id="less than it never got"),
    ],
)
def test_what_kubernetes_changes_passes(
    chart: Path, claim: dict[str, Any], one: dict[str, Any], storage_class: dict[str, Any]
) -> None:
    params = {"claim": {**CLAIM, **claim}, "there": one, "class": storage_class}
    assert said(chart, "common.claimChanges", **params) == ""


@pytest.mark.parametrize(
    ("claim", "one", "storage_class", "says"),
    [
        ({"storageClassName": "slow"}, there(), {}, "storageClassName: the claim datasets has fast, which"),
        ({"storageClassName": "-"}, there(), {}, "storageClassName: the claim datasets has fast, which"),
        (
            {"storageClassName": ""},
            made_with("accessModes", "storageClassName"),
            {},
            "storageClassName: the claim datasets was made with fast, which Kubernetes does not take away",
        ),
        ({}, there(storageClassName=""), {}, "storageClassName: the claim datasets has -, which"),
        ({"accessMode": "ReadWriteOnce"}, there(), {}, "accessMode: the claim datasets has ReadWriteMany"),
        ({"size": "5Gi"}, there(), {}, "size: the claim datasets has 10Gi, and volumes do not shrink"),
        ({"size": "10Gi"}, there(size="20Gi"), {}, "size: the claim datasets has 20Gi, and volumes do not"),
        (
            {"size": "20Gi"},
            there(volume=None),
            CLASS,
            "size: the claim datasets asks for 10Gi and has no volume",
        ),
        ({"size": "5Gi"}, there(volume=None), CLASS, "size: the claim datasets has 10Gi, and volumes do not"),
        ({"size": "20Gi"}, there(), {}, "and its StorageClass fast does not let volumes grow"),
        (
            {"size": "20Gi"},
            there(),
            {"allowVolumeExpansion": False},
            "StorageClass fast does not let volumes",
        ),
        ({"size": "20Gi"}, without_class(there()), {}, "without a StorageClass volumes do not grow"),
    ],
)
def test_what_it_does_not_change_is_refused(
    chart: Path, claim: dict[str, Any], one: dict[str, Any], storage_class: dict[str, Any], says: str
) -> None:
    params = {"claim": {**CLAIM, **claim}, "there": one, "class": storage_class}
    (line,) = said(chart, "common.claimChanges", **params).splitlines()
    assert f"training.volumes.datasets.{says}" in line or says in line
    assert line.startswith("training.volumes.datasets.")


@pytest.mark.parametrize(
    ("claim", "one", "says"),
    [
        ({}, there(), None),
        ({"size": "10240Mi"}, there(), None),
        ({"storageClassName": ""}, without_class(there()), None),
        ({"storageClassName": ""}, there(), "storageClassName: the StatefulSet datasets has fast"),
        (
            {},
            without_class(there()),
            "storageClassName: the StatefulSet datasets has the cluster's default class",
        ),
        ({"size": "20Gi"}, there(), "size: the StatefulSet datasets has 10Gi"),
        ({"accessMode": "ReadWriteOnce"}, there(), "accessMode: the StatefulSet datasets has ReadWriteMany"),
    ],
)
def test_a_stateful_set_keeps_its_template(
    chart: Path, claim: dict[str, Any], one: dict[str, Any], says: str | None
) -> None:
    line = said(chart, "common.claimTemplateChanges", claim={**CLAIM, **claim}, there=one["spec"])
    assert line == "" if says is None else says in line
    assert len(line.splitlines()) == (0 if says is None else 1)


@pytest.mark.parametrize(
    ("image", "old"),
    [
        ("postgres:15", ""),
        ("postgres:17.2-bookworm", "15"),
        (f"mirror.example.com:5000/postgres:17@sha256:{'0' * 64}", "15"),
        ("mirror.example.com:5000/postgres", ""),
        (f"postgres@sha256:{'17' * 32}", ""),
        ("trainyard/postgres:17f3aa35dd02", ""),
    ],
)
def test_data_of_another_postgresql_is_refused(chart: Path, image: str, old: str) -> None:
    line = said(chart, "postgresql.majorChanges", image=image, there=f"postgres:15@sha256:{'1' * 64}")
    assert line == "" if not old else f'set postgresql.image.tag to "{old}"' in line
    assert len(line.splitlines()) == bool(old)


def test_a_priority_class_says_what_kubernetes_would_put_there() -> None:
    """Else the next upgrade would find another value than the user's, which is none."""
    objects = render_chart(
        values={"priorityClasses": {"mine": {"enabled": True, "value": 5, "description": "x"}}}
    )
    assert find(objects, "PriorityClass", "mine")["preemptionPolicy"] == "PreemptLowerPriority"
