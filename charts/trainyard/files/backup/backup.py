"""Backups of the databases and of MLflow's artifacts, in a directory or in a bucket.

backup.py connect   write the file by which PostgreSQL's programs find the databases
          save      make a backup of /work/*.dump and of the artifacts; then remove old ones
          list      print what backups there are, as one line of JSON
          fetch     check a backup as a whole (BACKUP names it, empty the newest), and get its dumps to /work
          place     put its artifacts to where MLflow has them
          check     see whether the place can be written to

PLACE, a directory or s3://BUCKET/PREFIX, has:

    backups/NAME/DATABASE.dump   by pg_dump
    backups/NAME/manifest.json   all that belongs to it, with sizes and hashes; written last: without it,
                                 there is no backup
    artifacts/HH/HASH            a file of MLflow's, once for all backups that have it, by its SHA-256

A file has its name only when it is complete. ARTIFACTS is where MLflow has its artifacts, empty where they
are not saved. An object store is reached with AWS's own variables, that of the artifacts with the same, each
with ARTIFACTS_ before its name.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

WORK = Path("/work")
CONNECTIONS = Path("/connections/pg_service.conf")
FORMAT = 1
NAME = "%Y%m%d-%H%M%S"
CHUNK = 1 << 20
# What an interrupted backup has left, or what one that still runs has written so far, is not removed before.
YOUNG_SECONDS = 86_400
PART = ".part-"

Json = dict[str, Any]


class BackupError(Exception):
    """What is wrong, and the cure."""

    def __init__(self, message: str, cure: str) -> None:
        super().__init__(f"error: {message}\n  cure: {cure}")


class Found(NamedTuple):
    """A file. ``stamp`` changes with its content."""

    key: str
    size: int
    stamp: str
    modified: float


class Store(Protocol):
    """Files by key, in a directory or in a bucket."""

    scratch: Path

    def find(self, prefix: str = "") -> Iterator[Found]:
        """Yield the files below a prefix."""

    def open(self, key: str) -> BinaryIO:
        """Return a file's content; FileNotFoundError where there is none."""

    def adopt(self, file: Path, key: str) -> None:
        """Take a complete file out of ``scratch``, which is then there as a whole or not at all."""

    def delete(self, key: str) -> None:
        """Remove a file."""

    def sweep(self) -> None:
        """Remove what interrupted writers have left in ``scratch``."""


class Directory:
    """Files in a directory."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise BackupError(f"{root} is no directory", "mount the volume there")
        self.root = self.scratch = root

    def find(self, prefix: str = "") -> Iterator[Found]:
        """Walk through it. A directory may go meanwhile, and a file system's lost+found is none of ours."""

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError) and Path(error.filename).name != "lost+found":
                raise error

        for directory, _, names in os.walk(self.root / prefix, onerror=refuse):
            for name in names:
                path = Path(directory) / name
                try:
                    state = path.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if path.is_file() and not path.is_symlink() and not name.startswith(PART):
                    key = path.relative_to(self.root).as_posix()
                    yield Found(key, state.st_size, str(state.st_mtime_ns), state.st_mtime)

    def open(self, key: str) -> BinaryIO:
        """Open it."""
        return (self.root / key).open("rb")

    def adopt(self, file: Path, key: str) -> None:
        """Rename it, when it is on the disk."""
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        file.chmod(0o664)
        file.replace(target)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def delete(self, key: str) -> None:
        """Remove it, and the directories that are empty then."""
        path = self.root / key
        path.unlink(missing_ok=True)
        for parent in path.relative_to(self.root).parents[:-1]:
            try:
                (self.root / parent).rmdir()
            except OSError:
                return

    def sweep(self) -> None:
        """Remove parts that nobody writes to any more."""
        for path in self.root.glob(f"{PART}*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - YOUNG_SECONDS:
                    path.unlink()


class Bucket:
    """Files in a bucket."""

    scratch = WORK

    def __init__(self, uri: str, variables: str) -> None:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        self.bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        names = {
            "aws_access_key_id": "AWS_ACCESS_KEY_ID",
            "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
            "aws_session_token": "AWS_SESSION_TOKEN",
            "endpoint_url": "AWS_ENDPOINT_URL",
            "region_name": "AWS_REGION",
        }
        given = {key: os.environ.get(variables + name) for key, name in names.items()}
        try:
            self.s3 = boto3.client("s3", **{key: value for key, value in given.items() if value})
            self.s3.head_bucket(Bucket=self.bucket)
        except (BotoCoreError, ClientError, ValueError) as error:
            cure = (
                "correct backup.uri, backup.env and backup.envFrom: the bucket has to exist, and to be listed"
            )
            raise BackupError(f"{uri} cannot be reached: {error}", cure) from error

    def find(self, prefix: str = "") -> Iterator[Found]:
        """List it."""
        pages = self.s3.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
            for each in page.get("Contents", []):
                if not each["Key"].endswith("/"):
                    key, modified = each["Key"].removeprefix(self.prefix), each["LastModified"].timestamp()
                    yield Found(key, each["Size"], f"{each['ETag']} {modified}", modified)

    def open(self, key: str) -> BinaryIO:
        """Get it."""
        try:
            return self.s3.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"]
        except self.s3.exceptions.NoSuchKey as error:
            raise FileNotFoundError(key) from error

    def adopt(self, file: Path, key: str) -> None:
        """Upload it: an object is there when all of it is."""
        self.s3.upload_file(str(file), self.bucket, self.prefix + key)
        file.unlink()

    def delete(self, key: str) -> None:
        """Remove it."""
        self.s3.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def sweep(self) -> None:
        """Do nothing: ``scratch`` goes with the pod."""


def place() -> Store:
    """Return where backups are."""
    return _store(os.environ["PLACE"], "")


def artifacts() -> Store | None:
    """Return where MLflow has its artifacts, None where they are not saved."""
    where = os.environ["ARTIFACTS"]
    return _store(where, "ARTIFACTS_") if where else None


def _store(where: str, variables: str) -> Store:
    if where.startswith("s3://"):
        return Bucket(where, variables)
    path = Path(where)
    path.mkdir(exist_ok=True)  # the volume may be empty, and the path is below its root
    return Directory(path)


@contextmanager
def part(store: Store) -> Iterator[tuple[Path, BinaryIO]]:
    """Give a file to write to, which ``store`` can adopt; what is not adopted goes."""
    handle, name = tempfile.mkstemp(prefix=PART, dir=store.scratch)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield path, stream
    finally:
        path.unlink(missing_ok=True)


def copy(source: BinaryIO, target: BinaryIO | None = None) -> tuple[str, int]:
    """Read all of ``source``, into ``target`` where there is one; return SHA-256 and size."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if target:
            target.write(chunk)
    if target:
        target.flush()
    return digest.hexdigest(), size


def put(store: Store, key: str, source: BinaryIO) -> tuple[str, int]:
    """Store what ``source`` has; return SHA-256 and size."""
    with part(store) as (path, stream):
        result = copy(source, stream)
        store.adopt(path, key)
    return result


# ---- manifests


def blob(digest: str) -> str:
    """Return the key of a file by its SHA-256."""
    return f"artifacts/{digest[:2]}/{digest}"


def sealed(manifest: Json) -> bytes:
    """Return a manifest as it is stored, with a hash of itself."""
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, sort_keys=True, indent=1).encode()


def names(store: Store) -> list[str]:
    """Return the complete backups, the oldest first."""
    found = (re.fullmatch(r"backups/([^/]+)/manifest\.json", each.key) for each in store.find("backups/"))
    return sorted(match[1] for match in found if match)


def read(store: Store, name: str) -> Json:
    """Return a backup's manifest."""
    with store.open(f"backups/{name}/manifest.json") as stream:
        content = stream.read()
    try:
        manifest: Json = json.loads(content)
        intact = sealed(manifest) == content
    except (ValueError, AttributeError):
        intact = False
    if not intact:
        others = " ".join(each for each in names(store) if each != name)
        cure = f"restore another backup: {others or 'there is none'}"
        raise BackupError(f"backup {name} is damaged: its manifest.json is not as it was written", cure)
    if manifest["format"] > FORMAT:
        raise BackupError(f"backup {name} is of a newer release of Trainyard", "upgrade the release")
    return manifest


# ---- to save


def connect() -> None:
    """Write the file by which PostgreSQL's programs find the databases: no password is an argument."""
    from sqlalchemy.engine import make_url

    CONNECTIONS.touch(mode=0o600)
    lines = []
    for name in os.environ["DATABASES"].split():
        url = make_url(os.environ[f"URL_{name.upper()}"])
        if url.get_backend_name() != "postgresql":
            raise BackupError(f"the database {name} is {url.get_backend_name()}", "only PostgreSQL is saved")
        settings = {
            "host": url.host,
            "port": url.port,
            "dbname": url.database,
            "user": url.username,
            "password": url.password,
        }
        settings |= {key: value for key, value in url.query.items() if isinstance(value, str)}
        lines += [f"[{name}]", *(f"{key}={value}" for key, value in settings.items() if value is not None)]
    CONNECTIONS.write_text("\n".join(lines) + "\n")


def save() -> None:
    """Make a backup, and remove the old ones when it is complete."""
    store, name = place(), time.strftime(NAME, time.gmtime())
    known = names(store)
    if name in known:
        raise BackupError(f"backup {name} exists already", "start it again")
    databases = {}
    for database in os.environ["DATABASES"].split():
        with (WORK / f"{database}.dump").open("rb") as dump:
            digest, size = put(store, f"backups/{name}/{database}.dump", dump)
        lines = (WORK / f"{database}.revisions").read_text().splitlines()
        databases[database] = {
            "sha256": digest,
            "size": size,
            "revisions": dict(line.split() for line in lines),
        }
    manifest = {
        "format": FORMAT,
        "name": name,
        "databases": databases,
        "artifacts": save_artifacts(store, _previous(store, known)),
    }
    put(store, f"backups/{name}/manifest.json", io.BytesIO(sealed(manifest)))
    print(f"backup {name} is complete", flush=True)
    prune(store, int(os.environ["KEEP"]))
    print(json.dumps({"backup": summary(manifest)}), flush=True)


def _previous(store: Store, known: list[str]) -> dict[str, Json]:
    """Return the artifacts of the newest backup that can be read, by path."""
    for name in reversed(known):
        try:
            return read(store, name)["artifacts"] or {}
        except BackupError as error:
            print(error, flush=True)
    return {}


def save_artifacts(store: Store, previous: dict[str, Json]) -> dict[str, Json] | None:
    """Copy the artifacts that the place does not have; return all by their path."""
    source = artifacts()
    if source is None:
        print("artifacts: not saved, as their object store is your own", flush=True)
        return None
    there = {each.key: each.size for each in store.find("artifacts/")}
    saved, copied = {}, 0
    for each in source.find():
        entry = previous.get(each.key)
        unchanged = entry and (entry["size"], entry["stamp"]) == (each.size, each.stamp)
        if not (entry and unchanged and there.get(blob(entry["sha256"])) == each.size):
            entry = _save_artifact(store, source, each, there)
            copied += 1
        if entry:
            saved[each.key] = entry
    # Another backup may have removed what it did not need.
    now = {each.key: each.size for each in store.find("artifacts/")}
    lost = [path for path, entry in saved.items() if now.get(blob(entry["sha256"])) != entry["size"]]
    if lost:
        message = f"{len(lost)} artifacts went from the place meanwhile, the first {lost[0]}"
        raise BackupError(message, "make the backup again, while no other one runs")
    size = sum(entry["size"] for entry in saved.values())
    print(f"artifacts: {len(saved)} files, {size} bytes; {copied} of them were new", flush=True)
    return saved


def _save_artifact(store: Store, source: Store, one: Found, there: dict[str, int]) -> Json | None:
    """Copy a file; None where it was removed meanwhile."""
    try:
        content = source.open(one.key)
    except FileNotFoundError:
        return None
    with content, part(store) as (path, stream):
        digest, size = copy(content, stream)
        if there.get(blob(digest)) != size:
            store.adopt(path, blob(digest))
            there[blob(digest)] = size
    return {"sha256": digest, "size": size, "stamp": one.stamp}


def prune(store: Store, keep: int) -> None:
    """Remove all but the newest backups, and what no backup needs."""
    store.sweep()
    known = names(store)
    for name in known[:-keep]:
        # First what makes it one: half a backup is none.
        store.delete(f"backups/{name}/manifest.json")
        print(f"backup {name}: removed, as {keep} newer ones are kept", flush=True)
    kept = known[-keep:]
    before = time.time() - YOUNG_SECONDS
    for each in list(store.find("backups/")):
        name = each.key.split("/")[1]
        if name not in kept and (name in known or each.modified < before):
            store.delete(each.key)
    try:
        manifests = [read(store, name) for name in kept]
    except BackupError as error:
        print(f"artifacts: none is removed, as it is not known which are needed ({error})", flush=True)
        return
    needed = {blob(entry["sha256"]) for each in manifests for entry in (each["artifacts"] or {}).values()}
    for each in list(store.find("artifacts/")):
        if each.key not in needed and each.modified < before:
            store.delete(each.key)


def summary(manifest: Json) -> Json:
    """Return what is worth telling of a backup."""
    files = manifest["artifacts"]
    return {
        "name": manifest["name"],
        "databases": {name: each["size"] for name, each in manifest["databases"].items()},
        "artifacts": None
        if files is None
        else {"files": len(files), "size": sum(f["size"] for f in files.values())},
    }


def list_all() -> None:
    """Print the backups as one line of JSON, the oldest first."""
    store, found = place(), []
    for name in names(store):
        try:
            found.append(summary(read(store, name)))
        except BackupError as error:
            found.append({"name": name, "error": str(error)})
    print(json.dumps({"backups": found}), flush=True)


# ---- to restore


def fetch() -> None:
    """Check a backup, all of it, and get its dumps: what is refused is so before anything is overwritten."""
    store, wanted = place(), os.environ.get("BACKUP", "")
    known = names(store)
    if not known:
        raise BackupError(f"there is no backup in {os.environ['PLACE']}", "./scripts/backup makes one")
    name = wanted or known[-1]
    if name not in known:
        raise BackupError(f"there is no backup {name}", f"name one of these: {' '.join(known)}")
    manifest = read(store, name)
    missing = set(os.environ["DATABASES"].split()) - manifest["databases"].keys()
    if missing:
        message = f"backup {name} has no database {', '.join(sorted(missing))}, which the release has"
        raise BackupError(message, "restore another backup: ./scripts/restore --list")
    for database, expected in manifest["databases"].items():
        with (WORK / f"{database}.dump").open("wb") as target:
            check_file(store, name, f"backups/{name}/{database}.dump", expected, target)
        lines = (f"{table} {revision}\n" for table, revision in expected["revisions"].items())
        (WORK / f"{database}.revisions").write_text("".join(lines))
    files = {entry["sha256"]: entry for entry in (manifest["artifacts"] or {}).values()}
    for entry in files.values():
        check_file(store, name, blob(entry["sha256"]), entry)
    (WORK / "manifest.json").write_bytes(sealed(manifest))
    print(f"backup {name} is complete: {len(files)} artifacts and the databases checked", flush=True)
    connect()


def check_file(store: Store, name: str, key: str, expected: Json, target: BinaryIO | None = None) -> None:
    """Read a file of a backup, into ``target`` where there is one; BackupError where it is not as it was."""
    try:
        with store.open(key) as source:
            found = copy(source, target)
    except FileNotFoundError:
        found = None
    if found != (expected["sha256"], expected["size"]):
        what = "not as it was written" if found else "missing"
        cure = "restore another backup: ./scripts/restore --list"
        if target is None:  # an artifact, which backups share
            cure = (
                f"every backup that has this file is damaged: where MLflow still has it, remove {key} from "
                "the place and run ./scripts/backup; else restore one that is older than it"
            )
        raise BackupError(f"backup {name} is damaged: {key} is {what}", cure)


def place_artifacts() -> None:
    """Put the artifacts of the fetched backup to where MLflow has them. What is newer there stays."""
    manifest = json.loads((WORK / "manifest.json").read_bytes())
    target, files = artifacts(), manifest["artifacts"]
    if target is None or files is None:
        what = "not restored" if target is None else "not in the backup"
        print(f"artifacts: {what}, as their object store is your own", flush=True)
        return
    target.sweep()
    store, written = place(), 0
    there = {each.key: each.size for each in target.find()}
    for path, entry in files.items():
        if there.get(path) == entry["size"]:
            with target.open(path) as stream:
                if copy(stream)[0] == entry["sha256"]:
                    continue
        with store.open(blob(entry["sha256"])) as stream:
            digest, _ = put(target, path, stream)
        if digest != entry["sha256"]:
            raise BackupError(f"{path} changed while it was read", "run ./scripts/restore again")
        written += 1
    print(f"artifacts: {len(files)} files, {written} of them were missing or different", flush=True)


def check() -> None:
    """Write to the place, and remove it again."""
    store = place()
    key = f"check-{os.environ.get('HOSTNAME', 'here')}"
    put(store, key, io.BytesIO(b"check"))
    store.delete(key)
    print(f"{os.environ['PLACE']} can be written to", flush=True)


COMMANDS: dict[str, Callable[[], None]] = {
    "connect": connect,
    "save": save,
    "list": list_all,
    "fetch": fetch,
    "place": place_artifacts,
    "check": check,
}


def main() -> None:
    """Do what the argument says."""
    try:
        COMMANDS[sys.argv[1]]()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        cure = (
            "raise backup.persistence.size and the size of the claim, or lower backup.keep; of /work and /tmp"
        )
        raise BackupError(f"no space is left: {error}", f"{cure} backup.scratchSize") from error


if __name__ == "__main__":
    try:
        main()
    except BackupError as failed:
        sys.exit(str(failed))
