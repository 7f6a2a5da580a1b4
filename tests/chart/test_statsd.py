"""Airflow's metrics by StatsD: who sends them where, and what they are called in the end."""

from __future__ import annotations

import configparser
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from references import References
from render import CHART, Object, containers, find, pod_metadata, pod_spec, render_chart

NAME = "trainyard-statsd"
# Of executors that cannot run here, and of what needs no label.
NOT_HERE = re.compile(r"^(edge_worker|\{job_name\})")


def render(airflow: Object | None = None, **statsd: Any) -> list[Object]:
    return render_chart(values={"airflow": {"statsd": {"enabled": True, **statsd}, **(airflow or {})}})


def metrics(objects: list[Object], name: str = "trainyard") -> dict[str, str]:
    parser = configparser.RawConfigParser()
    parser.read_string(find(objects, "ConfigMap", f"{name}-config")["data"]["airflow.cfg"])
    return dict(parser["metrics"]) if parser.has_section("metrics") else {}


def mappings(objects: list[Object]) -> list[Object]:
    return yaml.safe_load(find(objects, "ConfigMap", NAME)["data"]["mappings.yml"])["mappings"]


def test_airflow_sends_its_metrics_there() -> None:
    objects = render()
    assert metrics(objects) == {
        "statsd_on": "True",
        "statsd_host": NAME,
        "statsd_port": "9125",
        "statsd_prefix": "airflow",
    }
    ports = {
        port["name"]: (port.get("protocol", "TCP"), port["port"])
        for port in service(objects)["spec"]["ports"]
    }
    assert ports == {"statsd-ingest": ("UDP", 9125), "statsd-scrape": ("TCP", 9102)}
    assert service(objects)["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "9102",
    }


def service(objects: list[Object]) -> Object:
    return find(objects, "Service", NAME)


def test_ports_follow() -> None:
    objects = render({"ports": {"statsdIngest": 8125, "statsdScrape": 9999}})
    assert metrics(objects)["statsd_port"] == "8125"
    (container,) = containers(find(objects, "Deployment", NAME))
    assert {"--statsd.listen-udp=:8125", "--web.listen-address=:9999"} <= set(container["args"])
    assert [port["containerPort"] for port in container["ports"]] == [8125, 9999]
    assert service(objects)["metadata"]["annotations"]["prometheus.io/port"] == "9999"


def test_what_the_values_say_of_metrics_wins() -> None:
    found = metrics(render({"config": {"metrics": {"statsd_host": "elsewhere", "metrics_allow_list": "ti"}}}))
    assert found["statsd_host"] == "elsewhere"
    assert found["metrics_allow_list"] == "ti"
    assert found["statsd_on"] == "True"
    off = metrics(render({"config": {"metrics": {"statsd_on": False, "statsd_port": None}}}))
    assert off["statsd_on"].lower() == "false"
    assert "statsd_port" not in off  # Airflow's own default


def test_there_is_nothing_of_it_by_default() -> None:
    objects = render_chart()
    assert not [one for one in objects if one["metadata"]["name"] == NAME]
    assert metrics(objects) == {}


def test_mappings_of_ones_own_come_after_the_charts_or_instead() -> None:
    mine = {"match": "airflow.mine.*", "name": "mine", "labels": {"what": "$1"}}
    assert mappings(render(extraMappings=[mine]))[-1] == mine
    assert len(mappings(render(extraMappings=[mine]))) == len(mappings(render())) + 1
    assert mappings(render(overrideMappings=[mine])) == [mine]


def test_arguments_of_ones_own_may_hold_templates() -> None:
    objects = render(args=["--web.listen-address=:{{ .Values.ports.statsdScrape }}"])
    (container,) = containers(find(objects, "Deployment", NAME))
    assert container["args"] == ["--web.listen-address=:9102"]
    assert "args" in container and pod_spec(find(objects, "Deployment", NAME))["serviceAccountName"] == NAME


def test_what_it_remembers() -> None:
    def remembers(**statsd: Any) -> tuple[list[str], Object]:
        objects = render(**statsd)
        (container,) = containers(find(objects, "Deployment", NAME))
        file = yaml.safe_load(find(objects, "ConfigMap", NAME)["data"]["mappings.yml"])
        return [each for each in container["args"] if "cache" in each], file.get("defaults", {})

    assert remembers() == (["--statsd.cache-size=1000", "--statsd.cache-type=lru"], {})
    cache = {"size": 20000000, "type": "random", "ttl": "1h30m"}
    own = ["--statsd.cache-size=20000000", "--statsd.cache-type=random"]
    assert remembers(cache=cache) == (own, {"ttl": "1h30m"})
    assert remembers(cache=cache, args=["-v"], overrideMappings=[{"match": "a", "name": "a"}]) == (
        [],
        {"ttl": "1h30m"},
    )


def test_its_keys_do_what_those_of_the_official_chart_do() -> None:
    objects = render(
        {"tolerations": [{"key": "a", "operator": "Exists"}]},
        revisionHistoryLimit=1,
        terminationGracePeriodSeconds=5,
        annotations={"a": "b"},
        podAnnotations={"c": "d"},
        configMapAnnotations={"e": "f"},
        service={"extraAnnotations": {"g": "h", "prometheus.io/scrape": "false"}},
        serviceAccount={"name": "exporter", "annotations": {"i": "j"}},
        nodeSelector={"k": "l"},
        priorityClassName="system-cluster-critical",
        uid=70,
        securityContexts={"container": {"readOnlyRootFilesystem": False}},
        containerLifecycleHooks={"preStop": {"exec": {"command": ["stop"]}}},
        env=[{"name": "E", "value": "f"}],
        labels={"team": "data"},
    )
    deployment = find(objects, "Deployment", NAME)
    assert deployment["spec"]["revisionHistoryLimit"] == 1
    assert deployment["metadata"]["annotations"] == {"a": "b"}
    assert pod_metadata(deployment)["annotations"]["c"] == "d"
    assert pod_metadata(deployment)["labels"].items() >= {"team": "data", "component": "statsd"}.items()
    pod = pod_spec(deployment)
    assert pod["serviceAccountName"] == "exporter" and pod["automountServiceAccountToken"] is False
    assert pod["nodeSelector"] == {"k": "l"} and pod["tolerations"], "its own, and the chart's"
    assert (pod["priorityClassName"], pod["terminationGracePeriodSeconds"]) == ("system-cluster-critical", 5)
    assert [pod["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")] == [70, 70, 70]
    (container,) = containers(deployment)
    assert container["securityContext"] == {"readOnlyRootFilesystem": False}
    assert container["env"] == [{"name": "E", "value": "f"}]
    assert container["lifecycle"] == {"preStop": {"exec": {"command": ["stop"]}}}
    assert find(objects, "ServiceAccount", "exporter")["metadata"]["annotations"] == {"i": "j"}
    assert find(objects, "ConfigMap", NAME)["metadata"]["annotations"] == {"e": "f"}
    assert service(objects)["metadata"]["annotations"] == {
        "g": "h",
        "prometheus.io/port": "9102",
        "prometheus.io/scrape": "false",
    }
    assert References(objects).check() == []


def test_airflow_finds_it_by_another_name_and_in_the_chart_alone() -> None:
    renamed = render({"fullnameOverride": "flow"})
    assert find(renamed, "Service", metrics(renamed, "flow")["statsd_host"])
    alone = render_chart(chart=CHART / "charts/airflow", values={"statsd": {"enabled": True}})
    assert find(alone, "Service", metrics(alone)["statsd_host"])


def template() -> list[Object]:
    """What Airflow says of its metrics."""
    spec = importlib.util.find_spec("airflow")
    assert spec and spec.submodule_search_locations
    (root,) = map(Path, spec.submodule_search_locations)
    file = root / "_shared/observability/metrics/metrics_template.yaml"
    return yaml.safe_load(file.read_text())["metrics"]


def airflows_names() -> list[tuple[str, list[str]]]:
    """Names with variables in them that Airflow sends, and the variables."""
    found = []
    for each in template():
        name = each["name"] if each["legacy_name"] in ("-", None) else each["legacy_name"]
        if "{" in name and not NOT_HERE.match(name):
            found.append((name, re.findall(r"\{(\w+)\}", name)))
    assert len(found) > 30
    return found


@pytest.mark.parametrize(("name", "variables"), airflows_names())
def test_each_of_airflows_names_becomes_one_metric_with_labels(name: str, variables: list[str]) -> None:
    metric, labels = exported(re.sub(r"\{(\w+)\}", r"\1", name))
    # A series for each job would never end.
    assert set(labels.values()) == set(variables) - {"job_id"}
    assert not set(variables) & set(re.split(r"[_.]", metric))


TASK = {"dag_id": "train", "task_id": "data.load"}


@pytest.mark.parametrize(
    ("sent", "metric", "labels"),
    [
        ("dag.train.data.load.duration", "airflow_task_duration", TASK),
        ("dag.train.data.load.queued_duration", "airflow_task_queued_duration", TASK),
        ("ti.start.train.data.load", "airflow_ti_start", TASK),
        ("ti.finish.train.data.load.success", "airflow_ti_finish", {**TASK, "state": "success"}),
        ("ti.queued.default.train.data.load", "airflow_ti_queued", {**TASK, "queue": "default"}),
        (
            "local_task_job.task_exit.7.train.data.load.-9",
            "airflow_local_task_job_task_exit",
            {**TASK, "return_code": "-9"},
        ),
        ("dagrun.duration.success.team.train", "airflow_dagrun_duration", {"dag_id": "team.train"}),
        (
            "dagrun.team.train.first_task_scheduling_delay",
            "airflow_dagrun_first_task_scheduling_delay",
            {"dag_id": "team.train"},
        ),
        ("triggers.running.10.244.1.5", "airflow_triggers_running", {"hostname": "10.244.1.5"}),
    ],
)
def test_a_task_in_a_group_has_its_labels_too(sent: str, metric: str, labels: dict[str, str]) -> None:
    """Its ID is GROUP.TASK; other names end with what may hold dots as well."""
    assert exported(sent) == (metric, labels)


def exported(sent: str) -> tuple[str, dict[str, str]]:
    """Which metric a name of Airflow's becomes, and its labels."""
    for mapping in mappings(render()):
        if found := pattern(mapping).fullmatch(f"airflow.{sent}"):
            labels = mapping["labels"].items()
            return mapping["name"], {label: found[int(value.removeprefix("$"))] for label, value in labels}
    raise AssertionError(f"nothing is said of {sent}")


def test_what_airflow_sends_again_without_labels_is_dropped() -> None:
    again = [one["name"] for one in template() if "{" in (one["legacy_name"] or "")]
    dropped = [pattern(one) for one in mappings(render()) if one.get("action") == "drop"]
    for name in again:
        found = any(each.fullmatch(f"airflow.{name}") for each in dropped)
        assert found or NOT_HERE.match(name), name
    kept = [one["name"] for one in template() if one["name"] not in again and "{" not in one["name"]]
    assert not [name for name in kept for each in dropped if each.fullmatch(f"airflow.{name}")]


def test_a_pod_that_is_gone_is_forgotten() -> None:
    """A host name is a pod's; each would be a series for ever."""
    of_pods = [one for one in mappings(render()) if "hostname" in one.get("labels", {})]
    assert of_pods
    assert all("ttl" in one for one in of_pods)


def pattern(mapping: Object) -> re.Pattern[str]:
    assert mapping["match_type"] == "regex", "no dot would be part of a name, as of a task in a group"
    return re.compile(mapping["match"])
