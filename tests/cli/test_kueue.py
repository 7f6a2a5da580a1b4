"""Kueue on kind: what controller-gen writes is made installable, and it is installed where it is wanted."""

from __future__ import annotations

from typing import Any

import pytest
from trainyard_cli import kueue, kueue_build

Json = dict[str, Any]


def webhooks(kind: str, *groups: str) -> Json:
    """As controller-gen writes them, with one hook for each API group."""
    client = {"service": {"name": "webhook-service", "namespace": "system", "path": "/validate"}}
    hooks = [{"clientConfig": client, "rules": [{"apiGroups": [group]}]} for group in groups]
    return {
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": f"{kind.lower()}-webhook-configuration"},
        "webhooks": hooks,
    }


@pytest.mark.parametrize("kind", ["Mutating", "Validating"])
def test_webhooks_have_the_name_that_kueue_looks_for(kind: str) -> None:
    found = kueue_build.finished(webhooks(kind, "batch"))
    assert found["metadata"]["name"] == f"kueue-{kind.lower()}-webhook-configuration"
    (hook,) = found["webhooks"]
    service = {"name": "kueue-webhook-service", "namespace": "kueue-system", "path": "/validate", "port": 443}
    assert hook["clientConfig"] == {"service": service}


def test_only_jobs_of_queued_namespaces_need_kueue() -> None:
    """Its own kinds are in no such namespace, and need it always."""
    jobs, own = kueue_build.finished(webhooks("Mutating", "batch", "kueue.x-k8s.io"))["webhooks"]
    assert jobs["namespaceSelector"] == {"matchLabels": {"trainyard.dev/queued": "true"}}
    assert "namespaceSelector" not in own


@pytest.mark.parametrize(("plural", "converted"), [("workloads", True), ("resourceflavors", False)])
def test_definitions_that_kueue_writes_its_ca_into_have_a_place_for_it(plural: str, converted: bool) -> None:
    crd = {"kind": "CustomResourceDefinition", "metadata": {}, "spec": {"names": {"plural": plural}}}
    assert ("conversion" in kueue_build.finished(crd)["spec"]) is converted


def test_it_is_wanted_where_a_pool_has_a_queue() -> None:
    assert kueue.is_wanted([{}, {"queue": "spot"}])
    assert not kueue.is_wanted([{}])
