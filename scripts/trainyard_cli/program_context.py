"""Build contexts of images whose programs are built on this machine, from Go modules."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from . import paths, toolchain
from .stages import Reporter


def lay_out(image: str, programs: Mapping[str, Path]) -> Path:
    """Return a build context: the programs, hard-linked into bin/, and what the Dockerfile mounts."""
    laid_out = paths.HOME / "build" / image
    shutil.rmtree(laid_out, ignore_errors=True)
    for directory in (image, "python"):
        source = paths.ROOT / "images" / directory
        shutil.copytree(source, laid_out / "images" / directory, ignore=shutil.ignore_patterns("go"))
    (laid_out / "bin").mkdir()
    for name, program in programs.items():
        (laid_out / "bin" / name).hardlink_to(program)
    return laid_out


def statsd_exporter(stage: Reporter) -> Path:
    """Return the build context of images/statsd-exporter."""
    image = "statsd-exporter"
    return lay_out(image, {"statsd_exporter": toolchain.build(stage, image) / "statsd_exporter"})
