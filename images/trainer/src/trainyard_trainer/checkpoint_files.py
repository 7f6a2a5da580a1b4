"""The files of checkpoints: which there are, and whether they are whole. Does not import torch."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BufferedIOBase
from typing import Any

from trainyard_trainer import log, storage
from trainyard_trainer.errors import storage_error

MANIFEST = "manifest.json"
# A checkpoint of 0.1.0 is one file with this ending. It is read for one more release.
SINGLE_FILE = ".checkpoint"
_NAME = re.compile(rf"epoch-\d+-batch-\d+({re.escape(SINGLE_FILE)})?")

Opened = tuple[
    Mapping[str, Any], Mapping[str, BufferedIOBase]
]  # the configuration, and the files by their names


class Damaged(Exception):
    """A checkpoint that is not what was written."""


def superseded(directory: storage.Directory) -> list[str]:
    """Return the files of a run's checkpoints that are older than its newest undamaged one."""
    found = files_of(directory)
    for number, name in enumerate(found, 1):
        try:
            with verified(directory, name):
                return [file for older in list(found.values())[number:] for file in older]
        except Damaged as damage:
            warn(directory, name, damage)
    return []


def warn(directory: storage.Directory, name: str, damage: Damaged) -> None:
    """Log that a checkpoint is not used."""
    log.warning("checkpoint_damaged", path=directory.place(name), reason=str(damage))


def files_of(directory: storage.Directory) -> dict[str, list[str]]:
    """Return the files of each checkpoint, by its name, newest first."""
    try:
        files = directory.files()
    except OSError as error:
        raise storage_error("listing the checkpoints in", directory, error) from error
    found: dict[str, list[str]] = {}
    for one in sorted((one.name for one in files), reverse=True):
        name = one.partition("/")[0]
        if _NAME.fullmatch(name):
            found.setdefault(name, []).append(one)
    return found


def is_complete(name: str, files: list[str]) -> bool:
    """Whether a checkpoint with these files was written to its end."""
    return name.endswith(SINGLE_FILE) or f"{name}/{MANIFEST}" in files


@contextmanager
def verified(directory: storage.Directory, name: str) -> Iterator[Opened]:
    """Open the files of a checkpoint for the block, once their hashes are verified. Raises Damaged."""
    with ExitStack() as stack:
        try:
            if name.endswith(SINGLE_FILE):
                opened = _open_single_file(name, stack.enter_context(directory.reader(name)))
            else:
                opened = _open_files(directory / name, stack)
        except FileNotFoundError:
            raise Damaged("a file is missing") from None
        except OSError as error:
            raise storage_error("reading the checkpoint", directory.place(name), error) from error
        yield opened


def _open_files(directory: storage.Directory, stack: ExitStack) -> Opened:
    try:
        manifest = json.loads(directory.read(MANIFEST))
        config = dict(manifest["config"])
        expected = {name: (one["bytes"], one["sha256"]) for name, one in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged("its manifest cannot be read") from None
    files = {}
    for name, what in expected.items():
        if "/" in name:
            raise Damaged(f"its manifest names {name}")
        files[name] = stream = stack.enter_context(directory.reader(name))
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if (stream.tell(), digest) != what:
            raise Damaged(f"the size or the SHA-256 of {name} does not match")
    return config, files


def _open_single_file(name: str, stream: BufferedIOBase) -> Opened:
    try:
        header = json.loads(stream.readline())
        config, expected = dict(header["config"]), header["sha256"]
    except (ValueError, KeyError, TypeError):
        raise Damaged("its header cannot be read") from None
    start = stream.tell()
    if hashlib.file_digest(stream, "sha256").hexdigest() != expected:
        raise Damaged("its SHA-256 does not match")
    stream.seek(start)
    return config, {name: stream}
