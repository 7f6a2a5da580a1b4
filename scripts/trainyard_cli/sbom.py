"""Lists what an image is made of, as CycloneDX JSON: Python and Debian packages, Go modules in programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import host, images, paths, toolchain
from .shell import run
from .stages import Reporter, Stages

SUFFIX = ".cdx.json"
# Go's licences lie with the modules, not in the program: syft reads them through the Go proxy.
SETTINGS = {
    "SYFT_GOLANG_SEARCH_REMOTE_LICENSES": "true",
    "SYFT_FILE_METADATA_SELECTION": "none",  # packages, not each file of theirs
    "SYFT_CHECK_FOR_APP_UPDATE": "false",
}


def write_all(stages: Stages, names: Sequence[str] = (), directory: Path = paths.SBOMS) -> list[Path]:
    """Build the images that are missing and write DIRECTORY/<image>.cdx.json for each; return the files.

    Without ``names`` these are the images of the release on kind.
    """
    names = names or images.wanted()
    images.check_names(names, images.ARGOCD, images.KUEUE)
    with stages("syft") as stage:
        syft = toolchain.syft(stage)
    with stages("docker") as stage:
        host.ensure_docker(stage)
    with stages("sbom") as stage:
        files = []
        for name in names:
            source = f"docker:{images.ensure_built(stage, name)}"
            files.append(write(stage, syft, source, name, directory))
        return files


def write(stage: Reporter, syft: Path, source: str, name: str, directory: Path) -> Path:
    """Write the contents of ``source`` (docker:IMAGE, registry:IMAGE@DIGEST) to DIRECTORY/<name>.cdx.json."""
    stage.update(f"listing what {name} is made of")
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{name}{SUFFIX}"
    new = file.with_suffix(".new")
    options = [f"--source-name={name}", f"--output=cyclonedx-json={new}", "--quiet"]
    run([syft, "scan", source, *options], env=SETTINGS, log="syft")
    new.rename(file)
    return file
