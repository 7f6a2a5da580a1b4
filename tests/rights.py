"""What ServiceAccounts may do, in one form for what the chart renders and what the API server says."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

# NAMESPACE/NAME of the ServiceAccount -> namespace -> resource -> verbs.
Rules = dict[str, list[str]]
RIGHTS: dict[str, dict[str, Rules]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())


def rules_of(rules: Iterable[dict[str, Any]]) -> Rules:
    """Rules of RBAC as resource -> verbs: `jobs.batch`, with a name `secrets trainyard-admin`."""
    found: dict[str, set[str]] = {}
    for rule in rules:
        groups, resources = rule.get("apiGroups", []), rule.get("resources", [])
        for group, resource, name in itertools.product(groups, resources, rule.get("resourceNames") or [""]):
            key = f"{resource}.{group}".rstrip(".") + f" {name}".rstrip()
            found.setdefault(key, set()).update(rule["verbs"])
    return {key: sorted(verbs) for key, verbs in sorted(found.items())}
