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
    path = f"/api/v1/namespaces/{namespace}/secrets"
    records = kube.items(path, labelSelector=f"owner=helm,name={name}")
    if not records:
        return None
    newest = max(records, key=lambda each: int(each["metadata"]["labels"]["version"]))
    return decode(newest)


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
