"""Packages the chart: the same files give the same bytes, on any day and in any checkout."""

from __future__ import annotations

import gzip
import os
import tarfile
import tempfile
from pathlib import Path

from . import chart
from .shell import run

# helm writes the time of packaging into the archive, and the file's own time into what it pushes. Both become
# this one, a day that every archive can hold, unless SOURCE_DATE_EPOCH says another.
EPOCH = 315532800  # 1980-01-01


def package(helm: Path, directory: Path, version: str) -> Path:
    """Write trainyard-``version``.tgz into the directory; return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        run([helm, "package", chart.CHART, f"--version={version}", f"--destination={scratch}"])
        (packaged,) = Path(scratch).glob("*.tgz")
        target = directory / packaged.name
        _repack(packaged, target, int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH)))
    return target


def _repack(source: Path, target: Path, seconds: int) -> None:
    """Copy a .tgz with its files in order, all of one time and owned by nobody in particular."""
    with (
        tarfile.open(source) as old,
        target.open("wb") as stream,
        gzip.GzipFile("", "wb", mtime=seconds, fileobj=stream) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as new,
    ):
        # Helm looks for Chart.yaml first.
        for member in sorted(old.getmembers(), key=lambda each: (each.name.count("/"), each.name)):
            plain = tarfile.TarInfo(member.name)
            plain.size, plain.mode, plain.mtime = member.size, 0o644, seconds
            new.addfile(plain, old.extractfile(member))
    os.utime(target, (seconds, seconds))
