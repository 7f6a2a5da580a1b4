"""A value arrives as it was written, whatever YAML would make of it, or is refused by name."""

from __future__ import annotations

import configparser
import functools
import json
import re
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from leaves import Path, leaves, render_what_is_taken
from render import (
    POD_KINDS,
    ChartError,
    Object,
    find,
    platform,
    pod_spec,
    render_chart,
    render_text,
    worker_pod,
)

# What YAML, JSON, an INI file or a shell takes for something else. N is a number, another one for each leaf:
# names in a list may be there once.
ODD = [
    """a: N #c "d' é\\n & <m>, {x}""",
    "- [N",
    "*N",
    "0N",
    "1eN",
    "N",
    "true",
    "2026-11-26",
    "two\nlines: N",
]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def texts() -> dict[Path, str]:
    """Every leaf that takes a free text or a name, with a text of its own."""
    marked = {}
    for number, (path, node) in enumerate(leaves().items()):
        if "string" not in node.get("type", ()) or "enum" in node or path[-1] == "targetPort":
            continue
        if "valueFrom" in path:  # a variable has a value or this
            continue
        # Letters and digits of any script, as Go writes them.
        pattern = node.get("pattern", "").replace(r"\p{L}\p{N}", r"\w")
        for marker in (f"leaf{number}x", f"/leaf{number}x", f"http://leaf{number}x"):
            if re.search(pattern, marker):
                marked[path] = marker
                break
    return marked


def parsed(text: str) -> list[Any]:
    """What a render says, without what is computed of other parts of it."""
    return [comparable(one) for one in yaml.load_all(text, LOADER) if one]


def comparable(node: Any, key: str = "") -> Any:
    """A part of an object; files within it are read as what they are, hashes are left out."""
    if isinstance(node, dict):
        if node.get("kind") == "Job":
            name = re.sub(r"-[0-9a-f]{8}$", "", node["metadata"]["name"])
            node = {**node, "metadata": {**node["metadata"], "name": name}}
        return {
            name: comparable(value, str(name)) for name, value in node.items() if "checksum/" not in str(name)
        }
    if isinstance(node, list):
        return [comparable(one) for one in node]
    if isinstance(node, str):
        if key.endswith((".yaml", ".yml")):
            return comparable(yaml.load(node, LOADER))
        if key.endswith(".cfg"):
            parser = configparser.RawConfigParser()
            parser.read_string(node)
            return comparable({section: dict(parser[section]) for section in parser.sections()})
        if key in ("pgbouncer.ini", "users.txt"):  # a quote in quotes is doubled
            return node.replace("''", "'").replace('""', '"')
        if node.startswith("postgresql+") or key == "login":
            return [unquote(part) for part in re.split("[:/@?]", node)]
        if node[:2] in ('{"', "[{") or key.endswith(".json"):
            return comparable(json.loads(node))
    return node


def replaced(node: Any, marker: re.Pattern[str], new: dict[str, str]) -> Any:
    """A part of an object with other texts in place of the markers."""
    if isinstance(node, dict):
        return {replaced(key, marker, new): replaced(value, marker, new) for key, value in node.items()}
    if isinstance(node, list):
        return [replaced(one, marker, new) for one in node]
    return marker.sub(lambda found: new[found[0]], node) if isinstance(node, str) else node


# Keys that tell the entries of a list or of a map apart.
ONCE = {
    *("name", "mountPath", "envName", "allowedHosts", "secretName", "host", "fullnameOverride"),
    "nameOverride",
    "namespaceOverride",  # a namespace that others have as well is closed once
    *("metadataSecretName", "fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"),
}


@functools.cache
def batches() -> list[dict[Path, str]]:
    """Leaves that can be set together, each with a text that is legal: all of them, and then only those that
    others hide (a claim's size beside existingClaim)."""
    everything = texts()
    found = []
    for _ in range(2):
        text, taken = render_what_is_taken(everything)
        shown = {path for path in taken if taken[path] in text}
        found.append({path: taken[path] for path in shown})
        everything = {path: text for path, text in everything.items() if path not in shown}
    return found


# Leaves that batches() cannot have, with the reason; what they hold is in the tests below.
ELSEWHERE = re.compile(
    r"priorityClassName$|spotPriorityClassName$"  # there must be such a class
    r"|^training\.(default\w*Pool|namespace)$"  # others say the same
    r"|^versitygw\.(namespace|persistence\.(existingClaim|storageClassName))$"  # that of the datasets is used
    r"|^training\.volumes\.datasets\.claimName$|^postgresql\.auth\.databases"
    r"|^gpuPools\.ondemand\.taints"  # an effect is needed, too
    r"|^gpuPoolLists\.odd\.pools"  # there must be such pools
    r"|[rR]equirements\.0\."  # and an operator
    r"|\.pod\.extraVolume"  # a mount names a volume
    r"|^(externalAirflow|secrets\.external)\b"  # only without an Airflow here; what is left out
    r"|^airflow\.apiServer\.hpa\."  # in place of replicas
    r"|\.schedule$"
    r"|^mlflow\.auth\.oidc\.scopes\.0$"  # openid is needed
    r"|^mlflow\.artifacts\.(destination|persistence\.mountPath)$"  # one lies in the other
    r"|\b(resources|\w+Resources|limitRange|quota)\."  # amounts
    r"|^networkPolicies\.extra\."  # by the name of a component
    r"|^airflow\.(extraEnv|extraEnvFrom|podTemplate)$"  # YAML
    r"|^nvidia-device-plugin\.config\."  # YAML, and names of each other
    r"|^airflow\.apiServer\.service\.ports\.0\.port$"  # a number or a template
    r"|^airflow\.dags\.gitSync\.(branch|rev)$|^airflow\.logs\.emptyDirConfig|simulator\.healthDirectory$"
    r"|^airflow\.ingress\.apiServer\.(host|(hosts\.0\.)?tls\.secretName)$"  # by another key
)


def test_every_leaf_that_takes_a_text_is_tried() -> None:
    tried = {path for batch in batches() for path in batch}
    left = {".".join(path) for path in texts() if path not in tried}
    assert not {key for key in left if not ELSEWHERE.search(key)}
    assert len(tried) > 250


# Every leaf with each of them: two renders of all leaves, again where some are refused.
FIRST = (ODD[0], "N", "true")
EACH_ODD = [odd if odd in FIRST else pytest.param(odd, marks=pytest.mark.exhaustive) for odd in ODD]


@pytest.mark.parametrize("odd", EACH_ODD)
def test_a_text_arrives_as_it_was_written_or_is_refused_by_name(odd: str) -> None:
    for batch in batches():
        numbered = {path: odd.replace("N", str(100 + n)) for n, path in enumerate(batch)}
        chosen = {path: text for path, text in numbered.items() if text != odd or not ONCE & set(path[-2:])}
        text, taken = render_what_is_taken(chosen)
        plain, still = render_what_is_taken({path: batch[path] for path in taken})
        assert still.keys() == taken.keys()
        new = {batch[path]: numbered[path] for path in taken}
        pattern = re.compile("|".join(map(re.escape, new)))
        assert unordered(parsed(text)) == unordered(replaced(parsed(plain), pattern, new))


def unordered(objects: list[Object]) -> list[Object]:
    """The same, sorted: objects, names in rules and words of policies come by name."""
    for one in objects:
        for rule in one.get("rules") or ():
            rule.get("resourceNames", []).sort()
        if one["kind"] == "ValidatingAdmissionPolicy":
            one["spec"] = sorted(re.split(r'[][{}, "]+', json.dumps(one["spec"])))
    return sorted(objects, key=lambda one: json.dumps([one["kind"], one["metadata"]], sort_keys=True))


BUDGETS = ("apiServer", "scheduler", "dagProcessor", "triggerer", "pgbouncer")


def test_a_number_arrives_as_it_was_written() -> None:
    """Large ones, which Helm holds as floats: 10485760 is not 1.048576e+07."""
    numbers: dict[Path, int] = {}
    for number, (path, node) in enumerate(leaves().items()):
        if "integer" in node.get("type", ()) or "number" in node.get("type", ()):
            numbers[path] = min(10_485_761 + number, node.get("maximum", 10**9))
    text, taken = render_what_is_taken(dict(numbers))
    assert not re.search(r"\de[+]\d", text)
    missing = {".".join(path) for path in taken if not re.search(rf"\b{numbers[path]}\b", text)}
    assert missing == {
        "airflow.apiServer.hpa.minReplicaCount",  # in place of replicas
        "airflow.apiServer.hpa.maxReplicaCount",
        "airflow.workers.terminationGracePeriodSeconds",  # that of workers.kubernetes is there
        # minAvailable goes before it.
        *(f"airflow.{component}.podDisruptionBudget.config.maxUnavailable" for component in BUDGETS),
        "mlflow.podDisruptionBudget.config.maxUnavailable",
        "serving.podDisruptionBudget.config.maxUnavailable",
        "airflow.dags.git.alertAfterMinutes",  # in seconds
        "airflow.dags.git.period",  # each bundle has its own
    }


POOL = {
    "resourceName": "nvidia.com/gpu",
    "gpusPerNode": 1,
    "spot": False,
    "nodes": {"max": 1},
    "costPerGpuHour": 1,
}
NAMES = ["4090", "100", "true", "null", "1e3"]


@pytest.mark.parametrize(
    "name", [*NAMES[-2:], *(pytest.param(name, marks=pytest.mark.exhaustive) for name in NAMES[:-2])]
)
def test_names_that_others_refer_to_may_look_like_something_else(name: str) -> None:
    """Names that have to be the same in two places, each where Kubernetes and the platform read it."""
    values: Object = {
        "gpuPools": {name: {**POOL, "gpuType": name}},
        "training": {
            "defaultPool": name,
            "namespace": name,
            "priorityClassName": name,
            "volumes": {"datasets": {"claimName": name}},
        },
        "versitygw": {"namespace": name, "persistence": {"existingClaim": name}, "priorityClassName": name},
        "priorityClasses": {name: {"enabled": True, "value": 7}},
        "airflow": {"scheduler": {"priorityClassName": name}, "workers": {"priorityClassName": name}},
        "mlflow": {"priorityClassName": name},
        "postgresql": {"priorityClassName": name},
        "scriptJobs": {"priorityClassName": name},
    }
    objects = render_chart(values=values, namespace=f"{name}-x")
    told = platform(objects)
    assert told["training"]["defaultPool"] == told["training"]["namespace"] == name
    assert told["pools"][name]["nodeLabels"] == {"trainyard.dev/pool": name, "trainyard.dev/gpu-type": name}
    assert {one["kind"] for one in objects if one["metadata"]["name"] == name} == {
        "Namespace",
        "PersistentVolumeClaim",
        "PriorityClass",
    }
    classes = {
        one["metadata"]["name"]
        for one in [*objects, worker_pod(objects)]
        if one["kind"] in POD_KINDS and pod_spec(one)["priorityClassName"] == name
    }
    assert {"trainyard-scheduler", "trainyard-mlflow", "trainyard-postgresql", "placeholder-name"} <= classes


@pytest.mark.parametrize(
    "name",
    ["1e3", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("123", "true", "null", "y"))],
)
def test_a_release_and_its_namespace_may_look_like_something_else(name: str) -> None:
    objects = render_chart(release=name, namespace=name)
    assert {one["metadata"].get("namespace") for one in objects} >= {name}
    assert {one["metadata"]["labels"]["app.kubernetes.io/instance"] for one in objects} == {name}


@pytest.mark.parametrize(
    ("port", "is_"), [("8080", 8080), (8080, 8080), ("{{ .Values.ports.apiServer }}", 8080), ("x", "x")]
)
def test_the_target_of_a_port_is_a_number_or_a_name(port: str | int, is_: str | int) -> None:
    ports = [{"name": "api-server", "port": "{{ .Values.ports.apiServer }}", "targetPort": port}]
    objects = render_chart(values={"airflow": {"apiServer": {"service": {"ports": ports}}}})
    (made,) = find(objects, "Service", "trainyard-api-server")["spec"]["ports"]
    assert made == {"name": "api-server", "port": 8080, "targetPort": is_}


def test_a_port_that_is_no_number_is_refused() -> None:
    ports = [{"name": "api-server", "port": "{{ .Values.ports }}"}]
    with pytest.raises(ChartError, match=r"airflow\.apiServer\.service\.ports\.0\.port: .* give one"):
        render_text(values={"airflow": {"apiServer": {"service": {"ports": ports}}}})


@pytest.mark.parametrize("key", ["extraEnv", "extraEnvFrom", "podTemplate"])
@pytest.mark.parametrize("text", ["a: b: c", "a"])
def test_yaml_in_values_that_does_not_parse_is_refused(key: str, text: str) -> None:
    with pytest.raises(ChartError, match=rf"airflow\.{key}: "):
        render_text(values={"airflow": {key: text}})


def test_lines_of_a_setting_stay_one_setting() -> None:
    values = {
        "airflow": {"config": {"core": {"x": "one\n[two]\nthree = 3"}}, "airflowLocalSettings": "  a\nb"}
    }
    data = find(render_chart(values=values), "ConfigMap", "trainyard-config")["data"]
    parser = configparser.RawConfigParser()
    parser.read_string(data["airflow.cfg"])
    assert parser["core"]["x"] == "one\n[two]\nthree = 3" and not parser.has_section("two")
    assert data["airflow_local_settings.py"].rstrip("\n") == "  a\nb"
