"""The files of torch.distributed.checkpoint (DCP) in a directory on a volume or in an object store.

One process writes and reads all of a state, whatever the process group is: `no_dist`, which DCP's public
functions have from torch 2.7 on only. A state of which each process has a part needs a group there instead.
"""

import gc
import hashlib
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedIOBase, BytesIO
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint import metadata as metadata_classes
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemBase, _StorageInfo
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
from torch.distributed.checkpoint.state_dict_saver import _save_state_dict

from trainyard_trainer.storage import Directory, Writable

# All that DCP's metadata is made of, besides torch's types of numbers.
_METADATA_PARTS = (
    *(getattr(metadata_classes, name) for name in metadata_classes.__all__),
    metadata_classes._MEM_FORMAT_ENCODING,
    _StorageInfo,
    torch.Size,
    torch.serialization._get_layout,
)
_METADATA_NAMES = {(one.__module__, one.__qualname__) for one in _METADATA_PARTS}

_PATH = ""  # of the directory for DCP, which is to know names in it alone

# DCP's own code uses it.
warnings.filterwarnings("ignore", "TypedStorage is deprecated", module=r"torch\.distributed\.checkpoint\.")


def save(state: Mapping[str, Any], directory: Directory) -> dict[str, dict[str, Any]]:
    """Write a state whose tensors are in CPU memory; return the size and SHA-256 of each file.

    Raises OSError.
    """
    files = _WrittenFiles(directory)
    # The directory flushes to the disk itself, and there is nothing to copy from a GPU.
    writer = FileSystemWriter(_PATH, sync_files=False, per_thread_copy_ahead=0)
    writer.fs, writer.path = files, _PATH
    with _own_errors():
        _save_state_dict(dict(state), writer, no_dist=True)
    return files.written


def load(files: Mapping[str, BufferedIOBase]) -> dict[str, Any]:
    """Return the state in open files, with all keys as strings; what they say runs no code of theirs.

    Raises OSError where they cannot be read, and all kinds of errors where they are no state.
    """
    reader = _Reader(_PATH)
    reader.fs, reader.path = _OpenFiles(files), _PATH
    state: dict[str, Any] = {}
    with _own_errors():
        _load_state_dict(state, reader, no_dist=True, planner=_Planner())
    gc.collect()  # cycles in DCP hold the tensors as well
    return state


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise what DCP has caught, Preempted as well, in place of its own exception."""
    try:
        yield
    except CheckpointException as wrapper:
        ((error, _),) = wrapper.failures.values()
        raise error from None


class _WrittenFiles(FileSystemBase):
    """What DCP asks of a file system where it writes: a new directory, all of whose files it has written."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self.written: dict[str, dict[str, Any]] = {}  # by the file's name

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator["_HashedStream"]:
        """Let the block write a file."""
        name = os.fspath(path)
        with self._directory.writer(name) as raw:
            stream = _HashedStream(raw)
            yield stream
        self.written[name] = {"bytes": stream.tell(), "sha256": stream.sha256()}

    def init_path(self, path: str | os.PathLike[str]) -> str:
        """Return the directory's path."""
        return _PATH

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        """Return a file's name in the directory."""
        return suffix

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Do nothing: the first file makes the directory."""

    def exists(self, path: str | os.PathLike[str]) -> bool:
        """Whether the file is there."""
        return os.fspath(path) in self.written

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Give a file another name, as DCP does with its metadata."""
        name, new = os.fspath(path), os.fspath(new_path)
        self._directory.rename(name, new)
        self.written[new] = self.written.pop(name)

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        """Remove a file."""
        self._directory.remove(os.fspath(path))
        del self.written[os.fspath(path)]

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether DCP may choose this class by a path: it may not."""
        return False


class _HashedStream:
    """Writes to a stream, and knows the size and the hash of what it wrote."""

    def __init__(self, stream: Writable) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        """Write all of it."""
        self._stream.write(data)
        self._hash.update(data)
        self._bytes += len(data)
        return len(data)

    def tell(self) -> int:
        """Return the number of bytes so far."""
        return self._bytes

    def flush(self) -> None:
        """Do nothing: the directory flushes a file at its end."""

    def close(self) -> None:
        """Do nothing: the directory closes a file at its end; newer versions of torch call this before."""

    def sha256(self) -> str:
        """Return the hash of the bytes so far."""
        return self._hash.hexdigest()


class _OpenFiles:
    """What DCP asks of a file system where it reads: these files, and no others that its metadata names."""

    def __init__(self, files: Mapping[str, BufferedIOBase]) -> None:
        self._files = files

    def concat_path(self, path: str, suffix: str) -> str:
        """Return the name of a file."""
        return suffix

    @contextmanager
    def create_stream(self, path: str, mode: str) -> Iterator[BufferedIOBase]:
        """Return a file at its start."""
        stream = self._files[path]
        stream.seek(0)
        yield stream


class _Reader(FileSystemReader):
    def read_metadata(self, *arguments: Any, **options: Any) -> Any:
        """Return what the writer has pickled."""
        with self.fs.create_stream(".metadata", "rb") as stream:
            return _MetadataUnpickler(stream).load()


class _MetadataUnpickler(pickle.Unpickler):
    """Loads DCP's metadata, and nothing that runs code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what the pickle names."""
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and (module, name) not in _METADATA_NAMES:
            raise pickle.UnpicklingError(f"its metadata names {module}.{name}")
        return super().find_class(module, name)


class _Planner(_EmptyStateDictLoadPlanner):
    """Makes the state that the metadata describes."""

    def load_bytes(self, read_item: Any, value: BytesIO) -> None:
        """Put into the state what is no tensor; DCP itself would unpickle anything."""
        loaded = torch.load(value, map_location="cpu", weights_only=True)
        set_element(self.original_state_dict, self.mappings[read_item.dest_index.fqn], loaded)
