"""Reads Helm's own record of a release: a Secret for each revision."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from typing import Any

import yaml

from .kube import Kube

Json = dict[str, Any]


@dataclass(frozen=True)
class HelmRelease:
    """The newest revision of a release."""

    name: str
    namespace: str
    revision: int
    status: str
    since: str
    description: str
    chart: str
    objects: list[Json]


def find(kube: Kube, namespace: str, name: str) -> HelmRelease | None:
    """Return a release, or None where Helm has installed none of this name."""
    found = records(kube, namespace, name).values()
    newest = max(found, key=lambda each: int(each["metadata"]["labels"]["version"]), default=None)
    return None if newest is None else decode(newest)


def records(kube: Kube, namespace: str, name: str) -> dict[str, Json]:
    """Return the records of a release by their API paths: Secrets, one for each revision."""
    path = f"/api/v1/namespaces/{namespace}/secrets"
    found = kube.items(path, labelSelector=f"owner=helm,name={name}")
    return {f"{path}/{each['metadata']['name']}": each for each in found}


def decode(record: Json) -> HelmRelease:
    """Return what a record says: JSON, packed, and encoded once by Helm and once by Kubernetes."""
    packed = base64.b64decode(base64.b64decode(record["data"]["release"]))
    content = json.loads(gzip.decompress(packed))
    chart, info = content["chart"]["metadata"], content["info"]
    return HelmRelease(
        name=content["name"],
        namespace=content["namespace"],
        revision=content["version"],
        status=info["status"],
        since=info.get("last_deployed", ""),
        description=info.get("description", ""),
        chart=f"{chart['name']}-{chart['version']}",
        objects=[each for each in yaml.safe_load_all(content["manifest"]) if each],
    )
