"""What was found out before, in this checkout or another: most of the chart's tests' time is rendering."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainyard_cli import paths

RENDERS = paths.HOME / "renders"
KEPT_SECONDS = 14 * 24 * 3600  # after the last use


def of_helm(command: list[str], run: Callable[[], Any]) -> Any:
    """Return what a command of helm gave, which reads its words and the repository's charts and values."""
    read = [_of_program(command[0]), *(_of_files(paths.ROOT / each) for each in ("charts", "values"))]
    return remembered([*read, *command], run)


def remembered(made_of: list[str], make: Callable[[], Any]) -> Any:
    """Return, as JSON has it, what `make` returned when it was made of the same; forget its errors."""
    file = RENDERS / hashlib.sha256("\0".join(made_of).encode()).hexdigest()
    try:
        found = json.loads(zlib.decompress(file.read_bytes()))
        os.utime(file)
        return found
    except (FileNotFoundError, ValueError, zlib.error):
        made = make()
    RENDERS.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=RENDERS, delete=False) as written:
        written.write(zlib.compress(json.dumps(made).encode(), level=1))
    Path(written.name).replace(file)
    return made


def forget_old() -> None:
    """Remove what was not used for a while."""
    for file in RENDERS.glob("*"):
        with suppress(FileNotFoundError):  # another run tidies up as well
            if file.stat().st_mtime < time.time() - KEPT_SECONDS:
                file.unlink()


@functools.cache
def _of_program(program: str) -> str:
    found = shutil.which(program)
    assert found, f"{program} is not on the PATH"
    with Path(found).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _of_files(directory: Path) -> str:
    """Return the SHA-256 of the names and contents of all files in a directory, and of where links lead."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.is_symlink():
            content = str(path.readlink()).encode()
        elif path.is_file():
            content = path.read_bytes()
        else:
            continue
        digest.update(f"{path.relative_to(directory)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
