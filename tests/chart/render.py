"""Render the chart as helm would, and check every object against the Kubernetes API's schemas."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import kubernetes_validate.utils
import yaml
from remembered import of_helm, remembered
from trainyard_cli.versions import VERSIONS

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/trainyard"
HELM = os.environ.get("HELM", "helm")
DOCUMENT_START = re.compile("^---$", re.MULTILINE)
# Not part of Kubernetes, so they have no schema here: Karpenter's NodePools and the Gateway API.
CUSTOM = {"karpenter.sh/v1", "gateway.networking.k8s.io/v1", "kueue.x-k8s.io/v1beta2"}
CLUSTER_KINDS = {
    "Namespace",
    "PriorityClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ClusterQueue",
    "Cohort",
    "ResourceFlavor",
}
POD_KINDS = {"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod"}

Object = dict[str, Any]

# Without this it reads the definitions of the whole API, and lists all versions of it, for every object.
for slow in ("schema_contents", "all_versions"):
    setattr(kubernetes_validate.utils, slow, functools.cache(getattr(kubernetes_validate.utils, slow)))


class ChartError(Exception):
    """Helm refused to render; the message is helm's."""


def render_chart(
    *,
    files: tuple[str, ...] = (),
    values: Object | None = None,
    release: str = "trainyard",
    namespace: str = "trainyard",
    chart: Path = CHART,
    apis: tuple[str, ...] = (),
) -> list[Object]:
    """Return the objects of one render, each valid for the API.

    `files` are names in values/ (kind.yaml), applied in order; `values` go on top of them. `chart` may be a
    subchart, which then stands alone. `apis` are further ones of the cluster. Raises ChartError.
    """
    return _objects(files, json.dumps(values or {}), release, namespace, chart, apis)


@functools.cache
def _objects(
    files: tuple[str, ...], values: str, release: str, namespace: str, chart: Path, apis: tuple[str, ...]
) -> list[Object]:
    text = _helm(files, values, release, namespace, chart, apis)
    checked_by = [Path(__file__).read_text(), version("kubernetes-validate"), kubernetes_version()]
    return remembered([*checked_by, text], lambda: _checked(text))


def _checked(text: str) -> list[Object]:
    return [one for one in map(_object, DOCUMENT_START.split(text)) if one]


@functools.cache
def _object(document: str) -> Object | None:
    """Parse a document and check it against the API's schema, once: most are the same in every render."""
    one = yaml.load(document, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if one and one["apiVersion"] not in CUSTOM:
        kubernetes_validate.validate(one, kubernetes_version(), strict=True)
    return one


def lint(chart: Path) -> subprocess.CompletedProcess[str]:
    """Run `helm lint` on one chart."""
    return subprocess.run([HELM, "lint", str(chart)], capture_output=True, text=True)


def render_text(
    *,
    files: tuple[str, ...] = (),
    values: Object | None = None,
    release: str = "trainyard",
    namespace: str = "trainyard",
    fresh: bool = False,
) -> str:
    """Return what `helm template` prints; `fresh` renders again what was rendered before."""
    text = json.dumps(values or {})
    if fresh:
        return _run(_command(files, release, namespace, CHART, ()), text)[1]
    return _helm(files, text, release, namespace, CHART)


@functools.cache
def _helm(
    files: tuple[str, ...], values: str, release: str, namespace: str, chart: Path, apis: tuple[str, ...] = ()
) -> str:
    command = _command(files, release, namespace, chart, apis)
    if chart.is_relative_to(ROOT):
        rendered, said = of_helm([*command, values], lambda: _run(command, values))
    else:
        rendered, said = _run(command, values)
    if not rendered:
        raise ChartError(said)
    return said


def _command(
    files: tuple[str, ...], release: str, namespace: str, chart: Path, apis: tuple[str, ...]
) -> list[str]:
    # Of the repository's own charts the command is the same in each checkout.
    where = chart.relative_to(ROOT) if chart.is_relative_to(ROOT) else chart
    command = [HELM, "template", release, str(where), "--namespace", namespace]
    command += ["--kube-version", f"{kubernetes_version()}.0"]
    for api in apis:
        command += ["--api-versions", api]
    for file in files:
        command += ["--values", f"values/{file}"]
    return [*command, "--values", "-"]


def _run(command: list[str], values: str) -> tuple[bool, str]:
    """Return whether helm rendered, and what it printed."""
    done = subprocess.run(command, input=values, capture_output=True, text=True, cwd=ROOT)
    if done.returncode not in (0, 1):  # a signal: helm has said nothing
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done.returncode == 0, done.stderr if done.returncode else done.stdout


def kubernetes_version() -> str:
    """Return the minor version of Kubernetes to render and validate for: that of the kind cluster."""
    return VERSIONS.kubernetes_minor


def find(objects: list[Object], kind: str, name: str) -> Object:
    """Return the one object of this kind and name; a Job's hash may be left out."""
    found = [
        one
        for one in objects
        if one["kind"] == kind and (one["metadata"]["name"] == name or identity(one)[1] == name)
    ]
    assert len(found) == 1, f"{len(found)} objects {kind} {name}"
    return found[0]


def identity(one: Object) -> tuple[str, str]:
    """Return kind and name, a Job's without the hash of what it runs."""
    name = one["metadata"]["name"]
    if one["kind"] == "Job":
        name = re.sub(r"-[0-9a-f]{8}$", "", name)
    return one["kind"], name


def pod_spec(one: Object) -> Object:
    """Return the spec of the pods that an object makes."""
    return _pod(one)["spec"]


def pod_metadata(one: Object) -> Object:
    """Return the metadata of the pods that an object makes."""
    return _pod(one)["metadata"]


def _pod(one: Object) -> Object:
    if one["kind"] == "CronJob":
        one = one["spec"]["jobTemplate"]
    return one if one.get("kind") == "Pod" else one["spec"]["template"]


def containers(one: Object) -> list[Object]:
    """Return all containers of an object's pods, init containers first."""
    spec = pod_spec(one)
    return [*spec.get("initContainers", []), *spec["containers"]]


def worker_pod(objects: list[Object]) -> Object:
    """Return the pod that KubernetesExecutor makes for a task."""
    config = find(objects, "ConfigMap", "trainyard-pod-template")
    pod = _object(config["data"]["pod_template_file.yaml"])
    assert pod
    return pod


def pods(objects: list[Object]) -> list[Object]:
    """Return the objects that make pods, and the worker pod."""
    return [*(one for one in objects if one["kind"] in POD_KINDS), worker_pod(objects)]


def wanted_secrets(objects: list[Object]) -> Object:
    """What the bootstrap Job is told to make: name of the Secret -> key -> how its value comes about."""
    job = find(objects, "Job", "trainyard-bootstrap-secrets")
    return json.loads(environment(containers(job)[0])["SECRETS"])


def platform(objects: list[Object]) -> Object:
    """Return what is reported to the DAG library of the platform."""
    return json.loads(find(objects, "ConfigMap", "trainyard-platform")["data"]["platform.json"])


def environment(container: Object) -> dict[str, Any]:
    """Return a container's variables, name -> value or valueFrom."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", [])}
