"""Directories by URI: on a volume (file://), or below a prefix in an object store (s3://).

A file is published as a whole: it is there with all its bytes, or it is not there. Whatever goes wrong with a
store is an OSError, as with a disk, so that callers need to know one kind of error.
"""

import errno
import os
import re
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import quote, unquote, urlsplit

from trainyard_trainer.errors import BadConfig, storage_error

if TYPE_CHECKING:
    from obstore.store import S3Store

TEMPORARY_PREFIX = ".tmp-"  # of files that are not published yet
SCHEMES = ("file", "s3")
_PART_BYTES = 16 << 20  # of uploads in parts, of which S3 takes 10,000
_PARTS_AT_ONCE = 4  # each is in memory
_ERRNO = {"401": errno.EACCES, "403": errno.EACCES, "404": errno.ENOENT}  # by the status of an answer
_RETRY_SECONDS = 60  # no longer than a pod has after SIGTERM


@dataclass(frozen=True)
class File:
    """A file below a directory."""

    name: str  # relative to the directory
    bytes: int
    modified: float  # seconds since 1970


class Writable(Protocol):
    """What bytes can be written to."""

    def write(self, data: Any, /) -> int:
        """Write bytes, or a view of memory."""


class Directory(ABC):
    """A directory; names may have slashes. Methods raise OSError: FileNotFoundError where nothing is."""

    @property
    @abstractmethod
    def uri(self) -> str:
        """The URI of the directory."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the directory as people name it: a path, or a URI."""

    @abstractmethod
    def __truediv__(self, name: str) -> "Directory":
        """Return a directory below."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a file."""

    @abstractmethod
    def reader(self, name: str) -> AbstractContextManager[BufferedIOBase]:
        """Open a file that may be larger than the memory. It is seekable."""

    @abstractmethod
    def local_copy(self, name: str, scratch: Path) -> Path:
        """Return a file of this machine with the content of a file: the file itself, or one in `scratch`."""

    @abstractmethod
    def publish(self, name: str, content: bytes) -> None:
        """Write a file atomically."""

    @abstractmethod
    def writer(self, name: str) -> AbstractContextManager[Writable]:
        """Write a file that may be larger than the memory; it is published at the end of the block."""

    @abstractmethod
    def rename(self, name: str, new: str) -> None:
        """Give a file another name."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def remove_all(self) -> None:
        """Remove the directory and everything below."""

    @abstractmethod
    def files(self) -> list[File]:
        """Return all files below; none where there is no directory."""

    @abstractmethod
    def directories(self) -> list[str]:
        """Return the names of the directories directly below whose files may be removed."""

    @abstractmethod
    def age(self) -> float:
        """Return the seconds since the last change at or below; 0 while it is being removed."""

    def place(self, name: str) -> str:
        """Return a file as people name it."""
        return f"{self}/{name}"

    def uri_of(self, name: str) -> str:
        """Return the URI of a file."""
        return f"{self.uri}/{name}"


def directory(uri: str) -> Directory:
    """Return the directory of a URI. Raises BadConfig for a URI that names none."""
    if urlsplit(uri).scheme == "s3":
        return ObjectDirectory.of(uri)
    return LocalDirectory(local_path(uri))


def file(uri: str) -> tuple[Directory, str]:
    """Return the directory of a file, and its name there."""
    parent, _, name = uri.rpartition("/")
    place = directory(parent)
    return place, unquote(name) if isinstance(place, LocalDirectory) else name


def local_path(uri: str) -> Path:
    """Return the directory or file that a file:// URI names. Raises BadConfig for any other URI."""
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise BadConfig(f"cannot use the URI {uri!r}; use file:///an/absolute/path, or s3://BUCKET/PREFIX")
    return Path(unquote(parts.path))


@contextmanager
def working_copy(uri: str) -> Iterator[Path]:
    """Let the block write files into a local directory: the URI's own, or one that is uploaded then.

    Raises Temporary or BadConfig when the files cannot be uploaded.
    """
    target = directory(uri)
    if isinstance(target, LocalDirectory):
        yield target.path
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)
        for one in sorted(path for path in Path(scratch).rglob("*") if path.is_file()):
            name = str(one.relative_to(scratch))
            try:
                target.publish(name, one.read_bytes())
            except OSError as error:
                raise storage_error("uploading", target.place(name), error) from error


# ---- on a volume


@dataclass(frozen=True)
class LocalDirectory(Directory):
    """A directory on a volume. Links are not followed."""

    path: Path

    @property
    def uri(self) -> str:
        """The file:// URI; `=`, which the lake's layout uses, is not escaped."""
        return "file://" + quote(str(self.path), safe="/=:+@")

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> "LocalDirectory":
        return LocalDirectory(self.path / name)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return (self.path / name).read_bytes()

    def reader(self, name: str) -> AbstractContextManager[BufferedIOBase]:
        """Open a file."""
        return (self.path / name).open("rb")

    def local_copy(self, name: str, scratch: Path) -> Path:
        """Return the file itself."""
        return self.path / name

    def publish(self, name: str, content: bytes) -> None:
        """Write a file atomically, even if the machine crashes."""
        publish_file(self.path / name, content)

    def writer(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Write a file atomically, even if the machine crashes."""
        return _published(self.path / name)

    def rename(self, name: str, new: str) -> None:
        """Give a file another name in its directory."""
        (self.path / name).replace(self.path / new)
        _sync_directory((self.path / new).parent)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there, and what directories are empty then."""
        path = self.path / name
        path.unlink(missing_ok=True)
        for parent in path.parents[: len(Path(name).parts) - 1]:
            with suppress(OSError):  # it is not empty
                parent.rmdir()

    def remove_all(self) -> None:
        """Remove the directory and everything below."""
        shutil.rmtree(self.path, onerror=_ignore_missing)

    def files(self) -> list[File]:
        """Return all files below; none where there is no directory."""
        found = []
        for folder, _, names in os.walk(self.path):
            for path in (Path(folder, name) for name in names):
                try:
                    status = path.lstat()
                except FileNotFoundError:  # another process removed it
                    continue
                found.append(File(str(path.relative_to(self.path)), status.st_size, status.st_mtime))
        return found

    def directories(self) -> list[str]:
        """Return the names of the directories directly below, but for a volume's lost+found."""
        try:
            with os.scandir(self.path) as entries:
                return sorted(
                    one.name
                    for one in entries
                    if one.is_dir(follow_symlinks=False) and os.access(one.path, os.R_OK | os.W_OK | os.X_OK)
                )
        except FileNotFoundError:
            return []  # nothing was written yet

    def age(self) -> float:
        """Return the seconds since the last change at or below; 0 while it is being removed."""
        try:
            newest = self.path.lstat().st_mtime
        except FileNotFoundError:
            return 0.0
        return time.time() - max([newest, *(one.modified for one in self.files())])


def publish_file(path: Path, content: bytes) -> None:
    """Write a file atomically, even if the machine crashes. Raises OSError."""
    with _published(path) as stream:
        stream.write(content)


@contextmanager
def _published(path: Path) -> Iterator[BinaryIO]:
    """Let the block write a file, which gets its name once it is whole and on the disk."""
    _make_directory(path.parent)
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)  # mkstemp makes it private; other steps can run as other users
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _make_directory(path: Path) -> None:
    """Make a directory with all above it, which are there after a crash as well."""
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir(exist_ok=True)
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _ignore_missing(function: Any, path: str, info: Any) -> None:
    """Let rmtree ignore files that another process has removed."""
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]


# ---- in an object store


@dataclass(frozen=True)
class ObjectDirectory(Directory):
    """What lies below a prefix of a bucket. Address and keys are in AWS's own environment variables.

    A PUT is atomic, and so is the end of an upload in parts; what is left of one that broke off is no object.
    """

    bucket: str
    prefix: str  # "" is the whole bucket

    @classmethod
    def of(cls, uri: str) -> "ObjectDirectory":
        """Return the directory of s3://BUCKET/PREFIX. Raises BadConfig."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        prefix = prefix.removesuffix("/")
        if not bucket or (prefix and "" in prefix.split("/")):
            raise BadConfig(f"cannot use the URI {uri!r}; use s3://BUCKET/PREFIX")
        return cls(bucket, prefix)

    @property
    def uri(self) -> str:
        """The s3:// URI."""
        return "/".join(filter(None, (f"s3://{self.bucket}", self.prefix)))

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> "ObjectDirectory":
        return ObjectDirectory(self.bucket, self._key(name))

    def read(self, name: str) -> bytes:
        """Return the content of an object."""
        import obstore

        with _os_errors():
            return bytes(obstore.get(_store(self.bucket), self._key(name)).bytes())

    @contextmanager
    def reader(self, name: str) -> Iterator[BufferedIOBase]:
        """Open a copy of an object in the scratch space."""
        with tempfile.TemporaryFile() as copy:
            self._copy(name, copy)
            copy.seek(0)
            yield copy

    def local_copy(self, name: str, scratch: Path) -> Path:
        """Return a copy of an object."""
        path = scratch / name.replace("/", "-")
        with path.open("wb") as copy:
            self._copy(name, copy)
        return path

    def _copy(self, name: str, copy: BinaryIO) -> None:
        import obstore

        with _os_errors():
            for part in obstore.get(_store(self.bucket), self._key(name)):
                copy.write(part)

    def publish(self, name: str, content: bytes) -> None:
        """Put an object; a large one in parts."""
        import obstore

        with _os_errors():
            obstore.put(_store(self.bucket), self._key(name), content, chunk_size=_PART_BYTES)

    @contextmanager
    def writer(self, name: str) -> Iterator[Writable]:
        """Put an object in parts."""
        import obstore

        with _os_errors():
            stream = obstore.open_writer(
                _store(self.bucket),
                self._key(name),
                buffer_size=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )
            yield _Upload(stream)
            stream.close()  # makes it an object; not after an error

    def rename(self, name: str, new: str) -> None:
        """Give an object another name: it is copied within the store."""
        import obstore

        with _os_errors():
            obstore.rename(_store(self.bucket), self._key(name), self._key(new))

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        import obstore

        with _os_errors():
            obstore.delete(_store(self.bucket), self._key(name))

    def remove_all(self) -> None:
        """Remove every object below."""
        import obstore

        if names := [self._key(one.name) for one in self.files()]:
            with _os_errors():
                obstore.delete(_store(self.bucket), names)

    def files(self) -> list[File]:
        """Return every object below."""
        import obstore

        with _os_errors():
            found = [
                one
                for part in obstore.list(_store(self.bucket), self.prefix or None)
                for one in part
                if not one["path"].endswith("/")  # the marker of a directory
            ]
        start = len(self.prefix) + 1 if self.prefix else 0
        return [File(one["path"][start:], one["size"], one["last_modified"].timestamp()) for one in found]

    def directories(self) -> list[str]:
        """Return the names of the prefixes directly below."""
        import obstore

        with _os_errors():
            found = obstore.list_with_delimiter(_store(self.bucket), self.prefix or None)
        return sorted(one.rpartition("/")[2] for one in found["common_prefixes"])

    def age(self) -> float:
        """Return the seconds since the last change below; 0 where nothing is there any more."""
        newest = max((one.modified for one in self.files()), default=None)
        return time.time() - newest if newest is not None else 0.0

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


class _Upload:
    """Gives an upload copies of what is written: it sends them later, when the memory may be another's."""

    def __init__(self, stream: Writable) -> None:
        self._stream = stream

    def write(self, data: Any, /) -> int:
        """Write bytes, or a view of memory."""
        view = memoryview(data)
        for start in range(0, len(view), _PART_BYTES):
            self._stream.write(bytes(view[start : start + _PART_BYTES]))
        return len(view)


@cache
def _store(bucket: str) -> "S3Store":
    from obstore.store import S3Store

    return S3Store(
        bucket,
        # An endpoint within the cluster may be without TLS; whether it is, AWS_ENDPOINT_URL says.
        client_options={"allow_http": True},
        retry_config={"retry_timeout": timedelta(seconds=_RETRY_SECONDS)},
    )


@contextmanager
def _os_errors() -> Iterator[None]:
    """Turn the store's errors into those of a disk: EACCES is for good, EIO may work a little later."""
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, _first_line(error)) from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise PermissionError(errno.EACCES, _first_line(error)) from error
    except exceptions.InvalidPathError as error:
        raise OSError(errno.EINVAL, _first_line(error)) from error
    except (exceptions.BaseError, OSError) as error:
        if getattr(error, "errno", None):  # of the scratch space
            raise
        # What a list or an upload in parts is answered with has no class of its own.
        status = re.search(r"status code: (\d+)", str(error))
        raise OSError(_ERRNO.get(status[1] if status else "", errno.EIO), _first_line(error)) from error


def _first_line(error: Exception) -> str:
    """Return the message without what obstore adds for its own developers."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
