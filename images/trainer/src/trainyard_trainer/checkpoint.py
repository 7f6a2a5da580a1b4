"""Checkpoints: one file each, a JSON header line and then what torch.save wrote.

The header carries the payload's SHA-256 and the configuration that it was trained with, so that a damaged
file and a file of another configuration are both recognised before anything of it is used.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from trainyard_trainer import lake, log
from trainyard_trainer.errors import BadConfig, storage_error

# The newest may be damaged by what ended the run, so the ones before it must be there.
KEEP = 3
_SUFFIX = ".checkpoint"


class _Damaged(Exception):
    pass


@dataclass(frozen=True)
class Store:
    """The checkpoints of one run, in one directory; `config` is all that decides about the weights."""

    directory: Path
    config: Mapping[str, Any]

    def save(self, epoch: int, batch: int, state: Mapping[str, Any]) -> None:
        """Save the state after `epoch` whole epochs and `batch` batches of the next; keep the newest few.

        Raises Temporary when the disk is full; the checkpoints before it are then still there.
        """
        buffer = BytesIO()
        torch.save(dict(state), buffer)
        payload = buffer.getvalue()
        header = {"sha256": hashlib.sha256(payload).hexdigest(), "config": dict(self.config)}
        path = self.directory / f"epoch-{epoch:06d}-batch-{batch:06d}{_SUFFIX}"
        try:
            lake.publish_file(path, json.dumps(header, sort_keys=True).encode() + b"\n" + payload)
            for old in _paths(self.directory)[KEEP:]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error("writing the checkpoint", path, error) from error
        log.event("checkpoint_written", path=str(path), epoch=epoch, batch=batch, bytes=len(payload))

    def latest(self) -> dict[str, Any] | None:
        """Return the newest state that is whole, or None.

        Raises BadConfig naming the key when it was trained with another configuration.
        """
        for path in _paths(self.directory):
            try:
                return self._load(path)
            except _Damaged as damage:
                log.warning("checkpoint_damaged", path=str(path), reason=str(damage))
        return None

    def clear(self) -> None:
        """Delete all checkpoints, for a run that starts over."""
        for path in _paths(self.directory):
            path.unlink(missing_ok=True)

    def _load(self, path: Path) -> dict[str, Any]:
        config, payload = _read(path)
        self._refuse_other(config, path)
        log.event("checkpoint_read", path=str(path))
        state: dict[str, Any] = torch.load(BytesIO(payload), map_location="cpu", weights_only=True)
        return state

    def _refuse_other(self, config: Mapping[str, Any], path: Path) -> None:
        for key in sorted(self.config.keys() | config.keys()):
            if self.config.get(key) != config.get(key):
                raise BadConfig(
                    f"{path} was trained with {key}={config.get(key)!r}, this run has "
                    f"{key}={self.config.get(key)!r}; use the former, another --run-key, "
                    "or start over without --resume-if-exists"
                )


def superseded(directory: Path) -> list[Path]:
    """Return the checkpoints of a run that nobody would resume from, as a newer one is whole."""
    for number, path in enumerate(paths := _paths(directory), 1):
        try:
            _read(path)
        except _Damaged as damage:
            log.warning("checkpoint_damaged", path=str(path), reason=str(damage))
        else:
            return paths[number:]
    return []


def _paths(directory: Path) -> list[Path]:
    """Return the checkpoints, newest first."""
    return sorted(directory.glob(f"epoch-*{_SUFFIX}"), reverse=True)


def _read(path: Path) -> tuple[Mapping[str, Any], bytes]:
    """Return the configuration and what torch.save wrote. Raises _Damaged."""
    try:
        head, newline, payload = path.read_bytes().partition(b"\n")
    except FileNotFoundError:  # superseded meanwhile
        raise _Damaged("it is gone") from None
    except OSError as error:
        raise storage_error("reading the checkpoint", path, error) from error
    try:
        header = json.loads(head)
        expected, config = header["sha256"], header["config"]
    except (ValueError, KeyError, TypeError):
        raise _Damaged("its header cannot be read") from None
    if not newline or hashlib.sha256(payload).hexdigest() != expected:
        raise _Damaged("its SHA-256 does not match")
    return config, payload
