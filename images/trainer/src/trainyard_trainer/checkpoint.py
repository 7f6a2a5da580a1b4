"""Checkpoints: one file or object each, with a JSON header line before the output of torch.save.

The header holds the payload's SHA-256 and the configuration of the training, so that a damaged file, or one
of another configuration, is detected before it is loaded.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch

from trainyard_trainer import log, storage
from trainyard_trainer.errors import BadConfig, storage_error

# The newest may be damaged by what ended the run; then the one before it is used.
KEEP = 3
_SUFFIX = ".checkpoint"
_NAME = re.compile(rf"epoch-[^/]*{re.escape(_SUFFIX)}")


class _Damaged(Exception):
    pass


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run, in one directory; `config` is everything that the weights depend on."""

    directory: storage.Directory
    config: Mapping[str, Any]

    def save(self, epoch: int, batch: int, state: Mapping[str, Any]) -> None:
        """Save the state after `epoch` epochs and `batch` batches of the next; keep the newest KEEP files.

        Raises Temporary when the disk is full; earlier checkpoints are kept then.
        """
        buffer = BytesIO()
        torch.save(dict(state), buffer)
        payload = buffer.getvalue()
        header = {"sha256": hashlib.sha256(payload).hexdigest(), "config": dict(self.config)}
        name = f"epoch-{epoch:06d}-batch-{batch:06d}{_SUFFIX}"
        try:
            self.directory.publish(name, json.dumps(header, sort_keys=True).encode() + b"\n" + payload)
            for old in _names(self.directory)[KEEP:]:
                self.directory.remove(old)
        except OSError as error:
            place = self.directory.place(name)
            raise storage_error("writing the checkpoint", place, error) from error
        log.event(
            "checkpoint_written",
            path=self.directory.place(name),
            epoch=epoch,
            batch=batch,
            bytes=len(payload),
        )

    def latest(self) -> dict[str, Any] | None:
        """Return the newest state that is not damaged, or None.

        Raises BadConfig naming the key when it was trained with another configuration.
        """
        for name in _names(self.directory):
            try:
                return self._load(name)
            except _Damaged as damage:
                log.warning("checkpoint_damaged", path=self.directory.place(name), reason=str(damage))
        return None

    def clear(self) -> None:
        """Delete all checkpoints, for a run that starts from scratch."""
        for name in _names(self.directory):
            self.directory.remove(name)

    def _load(self, name: str) -> dict[str, Any]:
        config, payload = _read(self.directory, name)
        place = self.directory.place(name)
        self._require_same_config(config, place)
        log.event("checkpoint_read", path=place)
        state: dict[str, Any] = torch.load(BytesIO(payload), map_location="cpu", weights_only=True)
        return state

    def _require_same_config(self, config: Mapping[str, Any], place: str) -> None:
        for key in sorted(self.config.keys() | config.keys()):
            if self.config.get(key) != config.get(key):
                raise BadConfig(
                    f"{place} was trained with {key}={config.get(key)!r}, this run has "
                    f"{key}={self.config.get(key)!r}; use the value of the checkpoint, "
                    "another --run-key, or start from scratch without --resume-if-exists"
                )


def superseded(directory: storage.Directory) -> list[str]:
    """Return the names of a run's checkpoints that are older than its newest undamaged one."""
    for number, name in enumerate(names := _names(directory), 1):
        try:
            _read(directory, name)
        except _Damaged as damage:
            log.warning("checkpoint_damaged", path=directory.place(name), reason=str(damage))
        else:
            return names[number:]
    return []


def _names(directory: storage.Directory) -> list[str]:
    """Return the names of the checkpoints, newest first."""
    try:
        files = directory.files()
    except OSError as error:
        raise storage_error("listing the checkpoints in", directory, error) from error
    return sorted((one.name for one in files if _NAME.fullmatch(one.name)), reverse=True)


def _read(directory: storage.Directory, name: str) -> tuple[Mapping[str, Any], bytes]:
    """Return the configuration and the payload. Raises _Damaged."""
    try:
        head, newline, payload = directory.read(name).partition(b"\n")
    except FileNotFoundError:  # another process removed it
        raise _Damaged("it was removed") from None
    except OSError as error:
        raise storage_error("reading the checkpoint", directory.place(name), error) from error
    try:
        header = json.loads(head)
        expected, config = header["sha256"], header["config"]
    except (ValueError, KeyError, TypeError):
        raise _Damaged("its header cannot be read") from None
    if not newline or hashlib.sha256(payload).hexdigest() != expected:
        raise _Damaged("its SHA-256 does not match")
    return config, payload
