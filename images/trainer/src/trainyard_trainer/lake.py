"""Datasets by URI, in one layout: <root>/<stage>/<dataset>/date=YYYY-MM-DD/version=<content hash>/.

A dataset is a set of columns, one .npy file each, and a manifest.json with its schema, rows and hashes.
It is published atomically, is immutable afterwards, and is verified whenever it is read.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

import numpy as np
import numpy.typing as npt

from trainyard_trainer import log
from trainyard_trainer.errors import BadConfig, BadData, storage_error

Columns = dict[str, npt.NDArray[Any]]
Stage = Literal["raw", "processed", "features"]
MANIFEST = "manifest.json"
TEMPORARY_PREFIX = ".tmp-"  # of files and directories that are not published yet
VERSION_LENGTH = 12


@dataclass(frozen=True)
class Dataset:
    """A dataset in the lake."""

    uri: str
    manifest: dict[str, Any]

    @property
    def version(self) -> str:
        """The shortened hash of the content, as in the URI."""
        return str(self.manifest["version"])

    @property
    def sha256(self) -> str:
        """The hash of the content."""
        return str(self.manifest["sha256"])


def local_path(uri: str) -> Path:
    """Return the directory or file that a file:// URI names. Raises BadConfig for any other URI."""
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise BadConfig(f"cannot use the URI {uri!r}; use file:///an/absolute/path")
    return Path(unquote(parts.path))


def file_uri(path: Path) -> str:
    """Return the file:// URI of an absolute path; `=`, which the layout uses, is not escaped."""
    return "file://" + quote(str(path), safe="/=:+@")


def write(
    root: str, stage: Stage, name: str, date: str, columns: Columns, *, rows: int, parent: str
) -> Dataset:
    """Write a dataset made from `parent` below the root URI; if an equal one exists, it is kept.

    Raises BadConfig when the root is not writable, Temporary when its disk is full.
    """
    files = {f"{column}.npy": _npy(values) for column, values in columns.items()}
    hashes = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    sha256 = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    version = sha256[:VERSION_LENGTH]
    manifest = {
        "dataset": name,
        "stage": stage,
        "date": date,
        "version": version,
        "rows": rows,
        "schema": {
            column: {"dtype": values.dtype.name, "shape": list(values.shape)}
            for column, values in columns.items()
        },
        "files": hashes,
        "sha256": sha256,
        "parent": parent,
    }
    directory = local_path(root) / stage / name / f"date={date}" / f"version={version}"
    dataset = Dataset(file_uri(directory), manifest)
    if _is_intact(dataset.uri):
        log.event("dataset_exists", uri=dataset.uri)
        return dataset
    files[MANIFEST] = json.dumps(manifest, indent=2, sort_keys=True).encode()
    try:
        _publish(files, directory)
    except OSError as error:
        if not _is_intact(dataset.uri):  # otherwise another process has published the same content
            raise storage_error("writing the dataset", directory, error) from error
    log.event("dataset_written", uri=dataset.uri, rows=rows, bytes=sum(map(len, files.values())))
    return dataset


def read(uri: str) -> tuple[Columns, Dataset]:
    """Read a dataset and verify it. Raises BadData when it is absent or damaged."""
    directory = local_path(uri)
    manifest = _manifest(directory)
    columns: Columns = {}
    for file, expected in manifest["files"].items():
        try:
            content = (directory / file).read_bytes()
        except FileNotFoundError:
            raise BadData(f"dataset {uri}: {file} is missing") from None
        except OSError as error:
            raise storage_error("reading the dataset", directory / file, error) from error
        actual = hashlib.sha256(content).hexdigest()
        if actual != expected:
            raise BadData(f"dataset {uri}: the SHA-256 of {file} is {actual}, its manifest says {expected}")
        columns[file.removesuffix(".npy")] = np.load(BytesIO(content), allow_pickle=False)
    return columns, Dataset(uri, manifest)


def publish_file(path: Path, content: bytes) -> None:
    """Write a file atomically, even if the machine crashes. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)  # mkstemp makes it private; other steps can run as other users
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _publish(files: Mapping[str, bytes], directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{directory.name}-", dir=directory.parent))
    try:
        temporary.chmod(0o755)  # mkdtemp makes it private
        for file, content in files.items():
            publish_file(temporary / file, content)
        _move_into_place(temporary, directory)
        _sync_directory(directory.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_into_place(complete: Path, directory: Path) -> None:
    """Rename a dataset to its directory; of two processes that write the same content, the first wins."""
    try:
        complete.rename(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if _is_intact(file_uri(directory)):
            return
        log.warning("dataset_replaced", path=str(directory), reason="the one there is damaged")
        damaged = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}damaged-", dir=directory.parent))
        directory.rename(damaged)
        complete.rename(directory)
        shutil.rmtree(damaged, ignore_errors=True)


def _npy(values: npt.NDArray[Any]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()


def _manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if not isinstance(manifest["files"], dict) or not {"version", "sha256", "rows"} <= manifest.keys():
            raise KeyError
    except (FileNotFoundError, NotADirectoryError):
        raise BadData(f"there is no dataset at {file_uri(directory)}: it has no {MANIFEST}") from None
    except OSError as error:
        raise storage_error("reading the dataset", path, error) from error
    except (ValueError, KeyError, TypeError):
        raise BadData(f"dataset {file_uri(directory)}: its {MANIFEST} is damaged") from None
    listed = hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()
    if listed != manifest["sha256"] or not directory.name.endswith(f"={listed[:VERSION_LENGTH]}"):
        raise BadData(f"dataset {file_uri(directory)}: its {MANIFEST} does not match its version")
    return dict(manifest)


def _is_intact(uri: str) -> bool:
    try:
        read(uri)
    except BadData:
        return False
    return True


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
