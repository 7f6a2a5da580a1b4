"""Reads and patches Kubernetes objects as plain JSON, with the certificate of kind's kubeconfig."""

from __future__ import annotations

import base64
import ssl
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from .errors import CliError

Json = dict[str, Any]

RETRY_SECONDS = 60.0
FORBIDDEN_CURE = "log in as somebody who may do this"


class Kube:
    """One cluster. A request outlasts a restart of the API server."""

    cure = "./scripts/up starts a stopped cluster again"

    def __init__(self, kubeconfig: Path) -> None:
        """Read the kubeconfig's only cluster and user."""
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self.server = cluster["server"]
        context = ssl.create_default_context(cadata=_decoded(cluster["certificate-authority-data"]))
        user = config["users"][0]["user"]
        with tempfile.NamedTemporaryFile("w") as pem:  # ssl reads key and certificate from files only
            pem.write(_decoded(user["client-certificate-data"]) + _decoded(user["client-key-data"]))
            pem.flush()
            context.load_cert_chain(pem.name)
        self._http = httpx.Client(base_url=self.server, verify=context, timeout=30, trust_env=False)

    def get(self, path: str, **params: Any) -> Json:
        """Return an object or a list by its API path."""
        return dict(self._send("GET", path, params=params).json())

    def items(self, path: str, **params: Any) -> list[Json]:
        """Return a list's items; an API or namespace that is not there has none."""
        response = self._send("GET", path, params=params, missing_ok=True)
        # What is said of an API that is not there is no JSON.
        missing = response.status_code == httpx.codes.NOT_FOUND
        return [] if missing else list(response.json().get("items", []))

    def find(self, path: str) -> Json | None:
        """Return an object, or None where there is none."""
        response = self._send("GET", path, missing_ok=True)
        return None if response.status_code == httpx.codes.NOT_FOUND else dict(response.json())

    def call(self, method: str, path: str, **options: Any) -> Json:
        """Return the answer to any request, e.g. to a Service behind the API server; options are httpx's."""
        return dict(self._send(method, path, **options).json())

    def patch(self, path: str, patch: Json) -> None:
        """Merge a change into an object; null removes a key."""
        self._send("PATCH", path, json=patch, headers={"Content-Type": "application/merge-patch+json"})

    def delete(self, path: str, **params: Any) -> None:
        """Delete an object; one that is gone is fine."""
        self._send("DELETE", path, params=params, missing_ok=True)

    def logs(
        self, namespace: str, pod: str, container: str, *, previous: bool = False, lines: int = 20
    ) -> str:
        """Return a container's last log lines; nothing where it never started."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        params = {"container": container, "previous": previous, "tailLines": lines}
        try:
            return self._send("GET", path, params=params, missing_ok=True).text
        except CliError:
            return ""

    def _send(self, method: str, path: str, *, missing_ok: bool = False, **options: Any) -> httpx.Response:
        deadline = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                problem, temporary, cure = f"{type(error).__name__}: {error}", True, self.cure
            else:
                status = response.status_code
                if response.is_success or (missing_ok and status == httpx.codes.NOT_FOUND):
                    return response
                problem = f"HTTP {status}: {_explanation(response)}"
                temporary = status in (429, 500, 503, 504)
                cure = FORBIDDEN_CURE if status == httpx.codes.FORBIDDEN else self.cure
            if not temporary or time.monotonic() > deadline:
                raise CliError(f"Kubernetes at {self.server} refuses {method} {path} ({problem})", cure)
            time.sleep(1)


def _explanation(response: httpx.Response) -> str:
    """Return the message of an error: Kubernetes wraps it in a Status object."""
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:300]


def secret(kube: Kube, namespace: str, name: str) -> dict[str, str] | None:
    """Return a Secret's decoded data, or None where it does not exist."""
    found = kube.find(f"/api/v1/namespaces/{namespace}/secrets/{name}")
    return found and {key: _decoded(value) for key, value in found.get("data", {}).items()}


def container_statuses(pod: Json) -> list[Json]:
    """Return the statuses of a pod's containers in the order in which they start, init containers first."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def waiting_reason(pod: Json) -> str:
    """Say in one line why a pod is not running yet, or not ready; empty when it is, or has ended."""
    status = pod.get("status", {})
    if status.get("phase") in ("Succeeded", "Failed"):
        return ""
    conditions = {each["type"]: each for each in status.get("conditions", [])}
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return str(scheduled.get("message") or scheduled.get("reason", "not scheduled"))
    for container in container_statuses(pod):
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "PodInitializing"):
            return ": ".join(filter(None, (container["name"], waiting["reason"], waiting.get("message"))))
    for container in status.get("initContainerStatuses", []):
        if "running" in container.get("state", {}):
            return f"init container {container['name']} runs"
    if conditions.get("Ready", {}).get("status") != "True":
        return "starting"
    return ""


def _decoded(value: str) -> str:
    return base64.b64decode(value).decode()
