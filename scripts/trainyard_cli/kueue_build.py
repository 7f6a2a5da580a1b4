"""What Kueue's image is built from where it cannot be pulled, and the definitions that it needs."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import yaml

from . import paths, program_context, toolchain
from .stages import Reporter

Json = dict[str, Any]

MODULE = "kueue"
GENERATOR = "controller-gen"
RELEASED = f"registry.k8s.io/kueue/kueue:{toolchain.version(MODULE)}"
NAMESPACE, SERVICE = "kueue-system", "kueue-webhook-service"
SOURCES = "sigs.k8s.io/kueue"
# One version of the API: then nothing is ever converted.
TYPES = f"{SOURCES}/apis/kueue/v1beta2"
# Packages whose markers say what the webhooks are asked about, and what else the controller may do.
WEBHOOKS = ("pkg/controller/jobs/job", "pkg/webhooks")
CONTROLLERS = ("pkg/controller/core", "pkg/controller/tas", "pkg/util/cert", "pkg/visibility")
# Kueue writes its CA into the definitions of these, and does not become ready where it cannot.
CONVERTED = ("clusterqueues", "cohorts", "localqueues", "multikueueclusters", "workloads")
QUEUED = {"matchLabels": {"trainyard.dev/queued": "true"}}


def context(stage: Reporter) -> Path:
    """Lay out the build context of its image."""
    return program_context.lay_out(MODULE, {"kueue": toolchain.build(stage, MODULE) / "kueue"})


def definitions(stage: Reporter) -> Path:
    """Return the file of Kueue's CRDs, webhooks and ClusterRole, made from its Go types where missing."""
    made_by = "".join(map(toolchain.content_hash, (MODULE, GENERATOR))).encode() + Path(__file__).read_bytes()
    directory = paths.HOME / "bin" / f"{MODULE}-definitions-{hashlib.sha256(made_by).hexdigest()[:12]}"
    return toolchain.make_once(directory, functools.partial(_generate, stage)) / "all.yaml"


def _generate(stage: Reporter, directory: Path) -> None:
    """Have controller-gen write what the markers in Kueue's sources say, and make that installable."""

    def packages(*names: str) -> list[str]:
        return [f"paths={SOURCES}/{name}" for name in names]

    # Without descriptions: they are nine tenths of a megabyte and a half. With the metadata of the pods in a
    # Workload: from there a Job that was preempted gets the labels of its pods back.
    jobs = (
        ("crd:maxDescLen=0,generateEmbeddedObjectMeta=true", f"paths={TYPES}", f"output:crd:dir={directory}"),
        ("webhook", *packages(*WEBHOOKS), f"output:webhook:dir={directory}"),
        ("rbac:roleName=kueue", *packages(*WEBHOOKS, *CONTROLLERS), f"output:rbac:dir={directory}"),
    )
    for arguments in jobs:
        toolchain.run_tool(stage, GENERATOR, GENERATOR, *arguments, sources=MODULE)
    files = sorted(directory.glob("*.yaml"))
    found = [each for file in files for each in yaml.safe_load_all(file.read_text())]
    (directory / "all.yaml").write_text(yaml.safe_dump_all(map(finished, found)))


def finished(found: Json) -> Json:
    """Return an object that can be applied: webhooks have names, a Service, and namespaces of theirs."""
    if found["kind"] == "CustomResourceDefinition" and found["spec"]["names"]["plural"] in CONVERTED:
        webhook = {"clientConfig": _client("/convert"), "conversionReviewVersions": ["v1"]}
        found["spec"]["conversion"] = {"strategy": "Webhook", "webhook": webhook}
    if found["kind"].endswith("WebhookConfiguration"):
        # Kueue looks for it by the name of its Service.
        kind = found["kind"].removesuffix("WebhookConfiguration").lower()
        found["metadata"]["name"] = f"{SERVICE.removesuffix('-webhook-service')}-{kind}-webhook-configuration"
        for hook in found["webhooks"]:
            hook["clientConfig"] = _client(hook["clientConfig"]["service"]["path"])
            # While Kueue is away, nobody else's Jobs shall be refused.
            if any("kueue.x-k8s.io" not in rule["apiGroups"] for rule in hook["rules"]):
                hook["namespaceSelector"] = QUEUED
    return found


def _client(path: str) -> Json:
    return {"service": {"name": SERVICE, "namespace": NAMESPACE, "path": path, "port": 443}}
