"""Datasets by URI, in one layout: <root>/<stage>/<dataset>/date=YYYY-MM-DD/version=<content hash>/.

A dataset is a set of columns, one .npy file each, and a manifest.json with its schema, rows and hashes.
The manifest is written last: with it the dataset is complete, without it there is none. It is immutable
afterwards, and is verified whenever it is read.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trainyard_trainer import log, storage
from trainyard_trainer.errors import BadData, storage_error

Columns = dict[str, npt.NDArray[Any]]
Stage = Literal["raw", "processed", "features"]
MANIFEST = "manifest.json"
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
    directory = storage.directory(root) / stage / name / f"date={date}" / f"version={version}"
    dataset = Dataset(directory.uri, manifest)
    if _is_intact(dataset.uri):
        log.event("dataset_exists", uri=dataset.uri)
        return dataset
    files[MANIFEST] = json.dumps(manifest, indent=2, sort_keys=True).encode()
    try:
        for file, content in files.items():
            directory.publish(file, content)
    except OSError as error:
        raise storage_error("writing the dataset", directory, error) from error
    log.event("dataset_written", uri=dataset.uri, rows=rows, bytes=sum(map(len, files.values())))
    return dataset


def read(uri: str, *, splits: tuple[str, ...] = (), mapped_in: Path | None = None) -> tuple[Columns, Dataset]:
    """Read a dataset, or the columns of these splits, and verify what is read.

    With `mapped_in` the inputs of splits stay in their files, and are read as they are used; those of an
    object store are copied to that directory.

    Raises BadData when the dataset is absent or damaged.
    """
    directory = storage.directory(uri)
    manifest = _manifest(directory)
    columns: Columns = {}
    for file, expected in manifest["files"].items():
        if splits and not file.startswith(tuple(f"{split}_" for split in splits)):
            continue
        try:
            if mapped_in and file.endswith("_inputs.npy"):
                values, actual = _mapped(directory, file, mapped_in)
            else:
                values, actual = _loaded(directory, file)
        except FileNotFoundError:
            raise BadData(f"dataset {uri}: {file} is missing") from None
        except OSError as error:
            raise storage_error("reading the dataset", directory.place(file), error) from error
        if actual != expected:
            raise BadData(f"dataset {uri}: the SHA-256 of {file} is {actual}, its manifest says {expected}")
        columns[file.removesuffix(".npy")] = values()
    return columns, Dataset(uri, manifest)


# A column that is not read before its hash is known to be right, and the hash.
_Found = tuple[Callable[[], npt.NDArray[Any]], str]


def _loaded(directory: storage.Directory, file: str) -> _Found:
    content = directory.read(file)
    return lambda: np.load(BytesIO(content), allow_pickle=False), hashlib.sha256(content).hexdigest()


def _mapped(directory: storage.Directory, file: str, scratch: Path) -> _Found:
    path = directory.local_copy(file, scratch)
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return lambda: np.load(path, mmap_mode="r", allow_pickle=False), sha256


def _npy(values: npt.NDArray[Any]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()


def _manifest(directory: storage.Directory) -> dict[str, Any]:
    try:
        manifest = json.loads(directory.read(MANIFEST))
        if not isinstance(manifest["files"], dict) or not {"version", "sha256", "rows"} <= manifest.keys():
            raise KeyError
    except (FileNotFoundError, NotADirectoryError):
        raise BadData(f"there is no dataset at {directory.uri}: it has no {MANIFEST}") from None
    except OSError as error:
        raise storage_error("reading the dataset", directory.place(MANIFEST), error) from error
    except (ValueError, KeyError, TypeError):
        raise BadData(f"dataset {directory.uri}: its {MANIFEST} is damaged") from None
    listed = hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()
    if listed != manifest["sha256"] or not directory.uri.endswith(f"={listed[:VERSION_LENGTH]}"):
        raise BadData(f"dataset {directory.uri}: its {MANIFEST} does not match its version")
    return dict(manifest)


def _is_intact(uri: str) -> bool:
    try:
        read(uri)
    except BadData:
        return False
    return True
