"""Checkpoints: one file each, with a JSON header line before the output of torch.save.

The header holds the payload's SHA-256 and the configuration of the training, so that a damaged file, or one
of another configuration, is detected before it is loaded.
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

# The newest may be damaged by what ended the run; then the one before it is used.
KEEP = 3
_SUFFIX = ".checkpoint"


class _Damaged(Exception):
    pass


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run, in one directory; `config` is everything that the weights depend on."""

    directory: Path
    config: Mapping[str, Any]

    def save(self, epoch: int, batch: int, state: Mapping[str, Any]) -> None:
        """Save the state after `epoch` epochs and `batch` batches of the next; keep the newest KEEP files.

        Raises Temporary when the disk is full; earlier checkpoints are kept then.
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
        """Return the newest state that is not damaged, or None.

        Raises BadConfig naming the key when it was trained with another configuration.
        """
        for path in _paths(self.directory):
            try:
                return self._load(path)
            except _Damaged as damage:
                log.warning("checkpoint_damaged", path=str(path), reason=str(damage))
        return None

    def clear(self) -> None:
        """Delete all checkpoints, for a run that starts from scratch."""
        for path in _paths(self.directory):
            path.unlink(missing_ok=True)

    def _load(self, path: Path) -> dict[str, Any]:
        config, payload = _read(path)
        self._require_same_config(config, path)
        log.event("checkpoint_read", path=str(path))
        state: dict[str, Any] = torch.load(BytesIO(payload), map_location="cpu", weights_only=True)
        return state

    def _require_same_config(self, config: Mapping[str, Any], path: Path) -> None:
        for key in sorted(self.config.keys() | config.keys()):
            if self.config.get(key) != config.get(key):
                raise BadConfig(
                    f"{path} was trained with {key}={config.get(key)!r}, this run has "
                    f"{key}={self.config.get(key)!r}; use the value of the checkpoint, "
                    "another --run-key, or start from scratch without --resume-if-exists"
                )


def superseded(directory: Path) -> list[Path]:
    """Return the checkpoints of a run that are older than its newest undamaged one."""
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
    """Return the configuration and the payload. Raises _Damaged."""
    try:
        head, newline, payload = path.read_bytes().partition(b"\n")
    except FileNotFoundError:  # another process removed it
        raise _Damaged("it was removed") from None
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
