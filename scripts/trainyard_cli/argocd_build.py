"""What Argo CD's image is built from where it cannot be pulled, and the definitions of its objects' kinds."""

from __future__ import annotations

from pathlib import Path

import httpx

from . import paths, program_context, toolchain
from .stages import Reporter

MODULE = "argocd"
HELM = "images/kind-node/go/helm"
RELEASED = f"quay.io/argoproj/argocd:{toolchain.version(MODULE)}"
RELEASED_CRDS = "https://raw.githubusercontent.com/argoproj/argo-cd/{version}/manifests/crds/{kind}-crd.yaml"
KINDS = ("application", "applicationset", "appproject")
TYPES = "github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
PROBE_SECONDS = 5.0


def context(stage: Reporter) -> Path:
    """Lay out the build context."""
    programs = {"argocd": toolchain.build(stage, MODULE) / "cmd", "helm": toolchain.helm(stage)}
    return program_context.lay_out(MODULE, programs)


def crds(stage: Reporter) -> Path:
    """Return the directory of Argo CD's custom resource definitions; they are fetched or made where missing.

    They are made of the same Go module as the program, whose sources are on this machine while it is built.
    """

    def fill(new: Path) -> None:
        if not _download_crds(stage, new):
            # Without descriptions: they are the greater part of a megabyte.
            output = ("crd:maxDescLen=0", f"paths={TYPES}", f"output:crd:dir={new}")
            toolchain.run_tool(stage, MODULE, "controller-gen", *output)

    directory = paths.HOME / "bin" / f"{MODULE}-crds-{toolchain.content_hash(MODULE)}"
    return toolchain.make_once(directory, fill)


def _download_crds(stage: Reporter, directory: Path) -> bool:
    stage.update("looking for the released definitions of Argo CD")
    timeout = httpx.Timeout(PROBE_SECONDS, read=60)
    urls = {kind: RELEASED_CRDS.format(version=toolchain.version(MODULE), kind=kind) for kind in KINDS}
    try:
        with httpx.Client(timeout=timeout, follow_redirects=True) as client:
            found = {kind: client.get(url).raise_for_status().content for kind, url in urls.items()}
    except (httpx.HTTPError, OSError):
        return False
    for kind, content in found.items():
        (directory / f"{kind}.yaml").write_bytes(content)
    return True
