"""Values are the chart's API: documented, closed, and wrong ones are refused by name, all at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from render import CHART, ChartError, Object, lint, render_chart, render_text

CHARTS = [CHART, *(path.parent for path in sorted(CHART.glob("charts/*/values.yaml")))]
each_chart = pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)

BAD: list[tuple[Object, str]] = [
    ({"gpuPool": {}}, "gpuPool"),
    ({"gpuPools": {"spot": {"gpuPerNode": 2}}}, "gpuPools/spot.*gpuPerNode"),
    ({"gpuPools": {"Spot_1": {}}}, "Spot_1"),
    ({"gpuPools": {"spot": {"gpusPerNode": 0}}}, "gpuPools/spot/gpusPerNode"),
    ({"gpuPools": {"spot": {"resourceName": "gpu"}}}, "gpuPools/spot/resourceName"),
    ({"gpuPools": {"spot": {"taints": [{"key": "a", "effect": "Never"}]}}}, "gpuPools/spot/taints/0/effect"),
    ({"gpuPools": {"spot": {"nodes": {"min": 0}}}}, r"gpuPools\.spot\.nodes\.min: is gone.*remove it"),
    ({"gpuPools": {"spot": {"kindNodes": 2}}}, r"gpuPools\.spot\.kindNodes"),
    (
        {"gpuPools": {"spot": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]}}},
        r"gpuPools\.spot\.taints",
    ),
    ({"gpuPools": {"spot": {"labels": {"trainyard.dev/pool": "x"}}}}, r"gpuPools\.spot\.labels"),
    (
        {"training": {"defaultPool": "a"}},
        r"training\.defaultPool: .* no pool a .*\(there are: ondemand, spot\)",
    ),
    ({"training": {"defaultSpotPool": 9}}, r"training\.defaultSpotPool: .* no pool 9"),
    ({"training": {"defaultSpotPool": "ondemand"}}, r"training\.defaultSpotPool: gpuPools\.ondemand\.spot"),
    ({"gpuPools": None, "training": {"defaultPool": "a"}}, r"no pool a in gpuPools \(there are: none\)"),
    ({"training": {"volumes": {"x": {"claimName": "a", "mountPath": "/a"}}}}, "training/volumes/x.*size"),
    ({"training": {"volumes": {"datasets": None}}}, "training/volumes.*datasets"),
    ({"training": {"volumes": {"checkpoints": {"mountPath": "/data"}}}}, r"volumes\.datasets\.mountPath"),
    ({"training": {"volumes": {"checkpoints": {"claimName": "datasets"}}}}, r"volumes\.datasets\.claimName"),
    ({"training": {"gpuDevice": "tpu"}}, "training/gpuDevice"),
    ({"training": {"namespace": "trainyard"}}, r"training\.namespace"),
    ({"training": {"image": {"tag": ""}}}, r"training\.image: set a tag or a digest"),
    ({"training": {"image": {"digest": "sha256:1"}}}, "training/image/digest"),
    ({"training": {"priorityClassName": "high"}}, r"training\.priorityClassName"),
    ({"training": {"volumes": {"datasets": {"size": "much"}}}}, "training/volumes/datasets/size"),
    ({"serving": {"namespace": "trainyard"}}, r"serving\.namespace"),
    ({"serving": {"replicas": 0}}, "serving/replicas"),
    ({"serving": {"priorityClassName": "high"}}, r"serving\.priorityClassName"),
    ({"priorityClasses": {"trainyard-spot": {"value": 2_000_000_000}}}, "trainyard-spot/value"),
    ({"airflow": {"executor": "CeleryExecutor"}}, "/executor"),
    ({"airflow": {"schedular": {}}}, "schedular"),
    ({"airflow": {"scheduler": {"replica": 2}}}, "scheduler.*replica"),
    ({"airflow": {"scheduler": {"priorityClassName": "high"}}}, r"airflow\.scheduler\.priorityClassName"),
    ({"airflow": {"extraEnv": "A: 1"}}, r"airflow\.extraEnv: not a list"),
    ({"airflowLogs": {"claimName": "x"}}, r"airflowLogs\.claimName: is gone.*airflow\.logs\.persistence"),
    ({"secrets": {"objectStore": {}}}, r"secrets\.objectStore: is gone.*airflow\.apiServer\.env"),
    ({"airflow": {"logs": {"persistence": {"enabled": False}}}}, r"common\.io\.xcom_objectstorage_path"),
    ({"airflow": {"images": {"airflow": {"pullPolicy": "Sometimes"}}}}, "images/airflow/pullPolicy"),
    ({"mlflow": {"enabled": False}}, r"training\.trackingUri"),
    ({"mlflow": {"allowedHosts": ["*"]}}, "allowedHosts/0"),
    ({"mlflow": {"replicas": 2}}, r"mlflow\.replicas"),
    ({"mlflow": {"ingress": {"enabled": True}}}, r"mlflow\.ingress\.host"),
    ({"mlflow": {"service": {"nodePort": 80}}}, "service/nodePort"),
    ({"postgresql": {"auth": {"databases": ["Air flow"]}}}, "auth/databases/0"),
    ({"nvidia-device-plugin": {"migStrategy": "some"}}, "migStrategy"),
    ({"versitygw": {"buckets": ["Incoming"]}}, "buckets/0"),
    ({"versitygw": {"metadata": "none"}}, "metadata"),
    ({"versitygw": {"namespace": "other"}}, r"versitygw\.namespace"),
    ({"versitygw": {"persistence": {"existingClaim": "x"}}}, r"versitygw\.persistence\.existingClaim"),
    ({"secrets": {"admin": {"username": ""}}}, "secrets/admin/username"),
    (
        {"externalAirflow": {"serviceAccounts": ["a"]}},
        r"externalAirflow\.serviceAccounts: .*airflow\.enabled",
    ),
    ({"externalAirflow": {"serviceAccounts": ["A"]}}, "externalAirflow/serviceAccounts/0"),
    ({"postgresql": {"auth": {"databases": ["mlflow"]}}}, r"postgresql\.auth\.databases: airflow is missing"),
    ({"scriptJobs": {"image": {"repository": "python"}}}, r"scriptJobs\.image: set a tag or a digest"),
]


@pytest.mark.parametrize(("values", "said"), BAD, ids=[said for _, said in BAD])
def test_a_bad_value_is_refused_by_name(values: Object, said: str) -> None:
    with pytest.raises(ChartError) as refused:
        render_text(values=values)
    assert re.search(said, str(refused.value)), refused.value


def test_all_bad_values_are_told_at_once() -> None:
    values = {
        "gpuPools": {"spot": {"kindNodes": 2}},
        "training": {"namespace": "trainyard"},
        "mlflow": {"replicas": 2},
        "versitygw": {"namespace": "trainyard"},
    }
    with pytest.raises(ChartError, match=r"(?s)3 bad value.*gpuPools.*training\.namespace.*mlflow\.replicas"):
        render_text(values=values)


@pytest.mark.parametrize("chart", [*CHARTS, CHART / "charts/common"], ids=lambda chart: chart.name)
def test_helm_lint_has_nothing_against_it(chart: Path) -> None:
    """Each chart by itself, too."""
    linted = lint(chart)
    assert linted.returncode == 0, linted.stdout


@each_chart
def test_every_key_is_documented(chart: Path) -> None:
    """Each key has a `# --` comment above it, or stands for children that have."""
    assert undocumented((chart / "values.yaml").read_text()) == []


def undocumented(text: str) -> list[str]:
    """Return the keys of a values file without a comment of their own or above them."""
    missing = []
    documented_above: list[int] = []  # indents of open keys that have a comment
    comment = False
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.strip().startswith("# --"):
            comment = True
        elif re.match(r"\s*#", line) and comment:
            continue
        elif found := re.match(r"( *)([\w.-]+):(.*)$", line):
            indent, key, value = len(found[1]), found[2], found[3].strip()
            documented_above = [one for one in documented_above if one < indent]
            is_parent = not value and any(re.match(r"\s", later) for later in lines[number + 1 : number + 2])
            if comment:
                documented_above.append(indent)
            elif not documented_above and not is_parent:
                missing.append(key)
            comment = False
    return missing


def test_the_documentation_test_can_fail() -> None:
    text = "# -- Good.\ngood:\n  child: 1\nparent:\n  # -- Good.\n  good: 1\n  bad: 2\nworse: 3\n"
    assert undocumented(text) == ["bad", "worse"]


@each_chart
def test_schemas_are_closed_and_know_every_key(chart: Path) -> None:
    schema = json.loads((chart / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    check_closed(schema, "")
    check_keys(yaml.safe_load((chart / "values.yaml").read_text()), schema, "")


def check_closed(schema: Object, path: str) -> None:
    """An object whose keys the schema lists takes no others."""
    if "properties" in schema:
        assert schema.get("additionalProperties") is False, path
    for key, child in schema.get("properties", {}).items():
        check_closed(child, f"{path}.{key}")
    for child in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(child, dict):
            check_closed(child, f"{path}[]")


def check_keys(values: object, schema: Object, path: str) -> None:
    """Every key of the values is in the schema, unless the schema leaves that level to Kubernetes."""
    if not isinstance(values, dict) or "properties" not in schema:
        return
    for key, value in values.items():
        assert key in schema["properties"], f"{path}.{key}"
        check_keys(value, schema["properties"][key], f"{path}.{key}")


def test_charts_are_where_the_umbrella_says() -> None:
    umbrella = yaml.safe_load((CHART / "Chart.yaml").read_text())
    versions = {}
    for file in CHART.glob("charts/*/Chart.yaml"):
        chart = yaml.safe_load(file.read_text())
        versions[chart["name"]] = chart["version"]
    assert {one["name"]: one["version"] for one in umbrella["dependencies"]} == versions
    assert not [one for one in umbrella["dependencies"] if "repository" in one]


def test_another_release_and_namespace_render() -> None:
    objects = render_chart(release="other", namespace="somewhere")
    namespaces = {one["metadata"].get("namespace") for one in objects}
    assert namespaces == {"somewhere", "ml-training", "ml-serving", "nvidia-device-plugin", None}
