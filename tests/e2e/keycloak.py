"""Keycloak on a node's port, by HTTPS: one address for the pods and for the browser of these tests."""

from __future__ import annotations

import html
import re
import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from authority import Authority
from kubernetes import client
from local_images import built_and_loaded
from pods import scratch, wait_until

NAME, PORT, NODE_PORT = "keycloak", 8443, 30843
FORM = re.compile(r'<form id="kc-form-login"[^>]* action="([^"]+)"')


@dataclass(frozen=True)
class Keycloak:
    """A provider that runs, with the people of images/keycloak/realm.json. All have one password."""

    address: str
    password: str
    client_secret: str
    ca: str  # PEM

    @property
    def issuer(self) -> str:
        return f"https://{self.address}:{NODE_PORT}/realms/ml"

    def browser(self, directory: Path) -> httpx.Client:
        """A browser of somebody who has not logged in."""
        file = directory / "ca.crt"
        file.write_text(self.ca)
        context = ssl.create_default_context(cafile=str(file))
        return httpx.Client(
            verify=context, follow_redirects=True, headers={"Accept": "text/html"}, timeout=60
        )

    def log_in(self, browser: httpx.Client, page: str, person: str) -> httpx.Response:
        """Open a page, log in at the provider where it leads to, and return what is shown at last."""
        shown = browser.get(page)
        form = FORM.search(shown.text)
        assert form and str(shown.url).startswith(self.issuer), (str(shown.url), shown.text[:2000])
        return browser.post(html.unescape(form[1]), data={"username": person, "password": self.password})

    def token(self, browser: httpx.Client, person: str) -> str:
        """The ID token that a program of the person has, for MLflow."""
        asked = {"grant_type": "password", "username": person, "password": self.password, "scope": "openid"}
        named = {"client_id": "mlflow", "client_secret": self.client_secret}
        answer = browser.post(f"{self.issuer}/protocol/openid-connect/token", data={**asked, **named})
        assert answer.is_success, answer.text
        return answer.json()["id_token"]


@contextmanager
def keycloak(core: client.CoreV1Api, namespace: str, pages: dict[str, str]) -> Iterator[Keycloak]:
    """A provider in a namespace of its own, for as long as the block.

    ``pages`` are the addresses of the clients, AIRFLOW and MLFLOW.
    """
    image = built_and_loaded(NAME)
    address = _address_of_a_node(core)
    authority = Authority("e2e identity")
    found = Keycloak(address, secrets.token_urlsafe(16), secrets.token_urlsafe(16), authority.certificate)
    with scratch(core, {"metadata": {"name": namespace}}):
        tls = {"metadata": {"name": NAME}, "stringData": authority.server(address)}
        core.create_namespaced_secret(namespace, tls)
        ports = [{"port": PORT, "targetPort": PORT, "nodePort": NODE_PORT}]
        service = {"type": "NodePort", "selector": {"app": NAME}, "ports": ports}
        core.create_namespaced_service(namespace, {"metadata": {"name": NAME}, "spec": service})
        core.create_namespaced_pod(namespace, _pod(image, found, pages))

        def is_ready() -> bool:
            statuses = core.read_namespaced_pod(NAME, namespace).status.container_statuses or []
            return bool(statuses) and all(status.ready for status in statuses)

        wait_until("Keycloak", is_ready, seconds=300)
        yield found


def _address_of_a_node(core: client.CoreV1Api) -> str:
    (node, *_) = core.list_node(label_selector="trainyard.dev/role=cpu").items
    (address,) = [each.address for each in node.status.addresses if each.type == "InternalIP"]
    return address


def _pod(image: str, provider: Keycloak, pages: dict[str, str]) -> dict[str, Any]:
    settings = {
        **pages,
        "PASSWORD": provider.password,
        "CLIENT_SECRET": provider.client_secret,
        "KC_HOSTNAME": f"https://{provider.address}:{NODE_PORT}",
        "KC_HTTPS_CERTIFICATE_FILE": "/tls/tls.crt",
        "KC_HTTPS_CERTIFICATE_KEY_FILE": "/tls/tls.key",
        "JAVA_OPTS_KC_HEAP": "-Xms128m -Xmx512m",
    }
    container = {
        "name": NAME,
        "image": image,
        "env": [{"name": name, "value": value} for name, value in settings.items()],
        "readinessProbe": {"httpGet": {"path": "/health/ready", "port": 9000, "scheme": "HTTPS"}},
        "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}],
    }
    return {
        "metadata": {"name": NAME, "labels": {"app": NAME}},
        "spec": {
            "nodeSelector": {"trainyard.dev/role": "cpu"},
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
            "containers": [container],
            "volumes": [{"name": "tls", "secret": {"secretName": NAME, "defaultMode": 0o440}}],
        },
    }
