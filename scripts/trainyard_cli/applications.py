"""Reads Argo CD's Applications and ApplicationSets: what they deploy, what differs, what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .chart import CHART_PATH, after_error
from .kube import Kube
from .objects import Identity

Json = dict[str, Any]

API = "/apis/argoproj.io/v1alpha1"
IN_CLUSTER = "https://kubernetes.default.svc"
# What kubectl, which Argo CD uses, says of a file that nobody knows.
PATCHED_FILE = re.compile(r"^error when \w+ \"/dev/shm/\d+\": ")


def installed(kube: Kube) -> bool:
    """Tell whether the cluster knows Applications; Argo's other projects share the API group."""
    found = kube.find(API) or {}
    return any(each["name"] == "applications" for each in found.get("resources", []))


def of_the_platform(kube: Kube, namespace: str) -> dict[str, Json]:
    """Return the Applications that deploy this chart, by environment."""
    found = kube.items(f"{API}/namespaces/{namespace}/applications")
    return {environment(each): each for each in found if _source(each).get("path") == CHART_PATH}


def environment(application: Json) -> str:
    """Return the environment of an Application: manifests/argocd names it <release>-<environment>."""
    release = _source(application).get("helm", {}).get("releaseName", "")
    return str(application["metadata"]["name"]).removeprefix(f"{release}-")


def release(application: Json) -> tuple[str, str]:
    """Return namespace and name of the Helm release."""
    name = _source(application).get("helm", {}).get("releaseName") or application["metadata"]["name"]
    return application["spec"]["destination"].get("namespace", ""), name


def is_in_cluster(application: Json) -> bool:
    """Tell whether it deploys to the cluster in which Argo CD runs."""
    destination = application["spec"]["destination"]
    return destination.get("server") == IN_CLUSTER or destination.get("name") == "in-cluster"


def wanted_revision(application: Json) -> str:
    """Return the revision that it asks for."""
    return str(_source(application).get("targetRevision", ""))


def deployed(application: Json) -> tuple[str, str]:
    """Return the commit of the last sync that went through, and when that was; empty where there was none."""
    history = _status(application).get("history") or []
    return (history[-1].get("revision", ""), history[-1].get("deployedAt", "")) if history else ("", "")


def sync(application: Json) -> str:
    """Return Synced, OutOfSync or Unknown, and whether a sync is under way."""
    status = _status(application).get("sync", {}).get("status") or "Unknown"  # at first it is empty
    return f"{status}, syncing" if is_syncing(application) else status


def is_syncing(application: Json) -> bool:
    """Tell whether a sync is under way."""
    operation: Json = _status(application).get("operationState", {})
    return bool(operation.get("phase") == "Running")


def health(application: Json) -> str:
    """Return Healthy, Progressing, Degraded, Missing, Suspended or Unknown."""
    return str(_status(application).get("health", {}).get("status") or "Unknown")


def images(application: Json) -> set[str]:
    """Return the images of the pods that it made."""
    return set(_status(application).get("summary", {}).get("images") or [])


def resources(application: Json) -> set[Identity]:
    """Return the objects that it deploys."""
    return {_identity(each) for each in _status(application).get("resources") or []}


def differing(application: Json) -> list[str]:
    """Return the objects that differ from git; none while Argo CD cannot tell."""
    if _status(application).get("sync", {}).get("status") != "OutOfSync":
        return []
    found = [
        each for each in _status(application).get("resources") or [] if each.get("status") == "OutOfSync"
    ]
    return [
        _identity(each).title + (" (not in git)" if each.get("requiresPruning") else "") for each in found
    ]


def unhealthy(application: Json) -> Iterator[tuple[str, str]]:
    """Yield the objects that Argo CD calls unhealthy, where it stores that, and why."""
    for each in _status(application).get("resources") or []:
        state = each.get("health") or {}
        if state.get("status") in ("Degraded", "Missing", "Unknown"):
            yield _identity(each).title, state.get("message") or state["status"]


def errors(application: Json) -> Iterator[tuple[str, str]]:
    """Yield what Argo CD complains of, and its cause."""
    conditions = _status(application).get("conditions") or []
    yield from ((each["type"], cause(each["message"])) for each in conditions)
    operation = _status(application).get("operationState") or {}
    failed = operation.get("phase") in ("Failed", "Error")
    if failed or (operation.get("phase") == "Running" and operation.get("retryCount")):
        # The message of the whole repeats those of the objects, cut short.
        results = (operation.get("syncResult") or {}).get("resources") or []
        refused = [each for each in results if each.get("status") == "SyncFailed"]
        yield from ((_identity(each).title, cause(each.get("message", ""))) for each in refused)
        if not refused and not any(each["type"] == "SyncError" for each in conditions):
            yield "sync", cause(operation.get("message", ""))


def problem(application: Json) -> str:
    """Return why Argo CD cannot sync it, in few words; "" where it can."""
    return next((why for what, why in errors(application) if not what.endswith("Warning")), "")


def set_errors(kube: Kube, namespace: str) -> Iterator[tuple[str, str]]:
    """Yield the ApplicationSets that cannot make their Applications, and why."""
    for each in kube.items(f"{API}/namespaces/{namespace}/applicationsets"):
        name = f"ApplicationSet {each['metadata']['name']}"
        yield from ((name, why) for why in errors_of_set(each))


def errors_of_set(application_set: Json) -> Iterator[str]:
    """Yield why an ApplicationSet cannot make its Applications."""
    for condition in _status(application_set).get("conditions") or []:
        if condition["type"] == "ErrorOccurred" and condition["status"] == "True":
            yield cause(condition["message"])


def cause(message: str) -> str:
    """Return what Helm, git or Kubernetes said, without Argo CD's words around it."""
    said = after_error(message)
    if said == message.strip():
        said = message.rpartition("desc = ")[2].strip()
    said = PATCHED_FILE.sub("", said)
    return said.partition("\n\nUse --debug flag")[0].strip(": \n")


def _identity(resource: Json) -> Identity:
    return Identity(*(resource.get(key, "") for key in Identity._fields))


def _source(application: Json) -> Json:
    return application["spec"].get("source") or {}


def _status(application: Json) -> Json:
    return application.get("status") or {}
