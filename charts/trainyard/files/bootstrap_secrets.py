"""Create the missing Secrets, and keep the existing ones. Standard library only.

SECRETS is a JSON object: Secret name -> key -> one of
    {"generate": "password"}    a random URL-safe text (86 characters)
    {"generate": "fernet"}      a fernet key for Airflow
    {"value": "..."}            the text itself
    {"template": "...{s/k}..."} the text, with {s/k} replaced by the key k of the Secret s
One that is generated may have a "credential": what ./scripts/rotate, which imports this script, calls it.
The name of a Secret in another namespace than this pod's is namespace/name.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REFERENCE = re.compile(r"\{((?:[\w.-]+/)?[\w.-]+)/([\w.-]+)\}")
ALREADY_EXISTS = 409

Recipes = dict[str, dict[str, str]]


class Cluster:
    """The cluster's Secrets, through the Kubernetes API."""

    def __init__(self) -> None:
        """Read the address, the certificate and the token that Kubernetes gives to the pod."""
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        host = f"[{host}]" if ":" in host else host
        self.url = f"https://{host}:{port}/api/v1/namespaces"
        self.namespace = (ACCOUNT / "namespace").read_text()
        self.tls = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        self.headers = {
            "Authorization": "Bearer " + (ACCOUNT / "token").read_text(),
            "Content-Type": "application/json",
        }

    def _call(self, url: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, headers=self.headers)
        with urllib.request.urlopen(request, context=self.tls, timeout=30) as response:
            return json.load(response)

    def _locate(self, full_name: str) -> tuple[str, str]:
        """Return the URL of the Secrets of the namespace, and the name without the namespace."""
        namespace, _, name = full_name.rpartition("/")
        return f"{self.url}/{namespace or self.namespace}/secrets", name

    def read(self, full_name: str) -> dict[str, str]:
        """Return the keys and values of a Secret."""
        url, name = self._locate(full_name)
        data = self._call(f"{url}/{name}")["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def create(self, full_name: str, values: dict[str, str]) -> bool:
        """Create a Secret; return False when it exists already."""
        url, name = self._locate(full_name)
        metadata = {"name": name, "labels": {"app.kubernetes.io/part-of": "trainyard"}}
        body = {"metadata": metadata, "type": "Opaque", "stringData": values}
        try:
            self._call(url, body)
        except urllib.error.HTTPError as error:
            if error.code != ALREADY_EXISTS:
                raise
            return False
        return True


def make_value(recipe: dict[str, str], read: Callable[[str], dict[str, str]]) -> str:
    """Return the value of one key; `read` returns a Secret. Raises ValueError for an unknown recipe."""
    match recipe:
        case {"generate": "password"}:
            return secrets.token_urlsafe(64)
        case {"generate": "fernet"}:
            return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        case {"value": text}:
            return text
        case {"template": text}:
            return REFERENCE.sub(lambda match: read(match[1])[match[2]], text)
    raise ValueError(f"unknown recipe for a secret: {recipe}")


def make_secret(name: str, wanted: dict[str, Recipes], cluster: Cluster, done: set[str]) -> None:
    """Create a Secret, after those that it is composed of. One may be composed of keys of its own."""
    if name in done:
        return
    done.add(name)
    recipes = wanted[name]
    templates = {key: recipe for key, recipe in recipes.items() if "template" in recipe}
    values = {
        key: make_value(recipe, cluster.read) for key, recipe in recipes.items() if key not in templates
    }
    for other in {
        match[0] for recipe in templates.values() for match in REFERENCE.findall(recipe["template"])
    }:
        if other in wanted:
            make_secret(other, wanted, cluster, done)

    def read(other: str) -> dict[str, str]:
        return values if other == name else cluster.read(other)

    values |= {key: make_value(recipe, read) for key, recipe in templates.items()}
    print(f"{name}: {'created' if cluster.create(name, values) else 'exists already'}", flush=True)


def main() -> None:
    """Create each Secret of SECRETS."""
    wanted = json.loads(os.environ["SECRETS"])
    cluster = Cluster()
    done: set[str] = set()
    for name in sorted(wanted):
        make_secret(name, wanted, cluster, done)


if __name__ == "__main__":
    main()
