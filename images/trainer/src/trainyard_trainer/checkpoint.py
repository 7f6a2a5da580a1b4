"""Checkpoints, which a thread writes while the training goes on.

A checkpoint is a directory of DCP's files and, written last, a manifest: the configuration of the training,
and the size and SHA-256 of each file. Without a manifest, or when a file is not what the manifest says, the
checkpoint is damaged, and the one before it is used.
"""

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from io import BufferedIOBase, BytesIO
from types import MappingProxyType
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from trainyard_trainer import dcp, log, storage
from trainyard_trainer.checkpoint_files import MANIFEST, Damaged, files_of, is_complete, verified, warn
from trainyard_trainer.errors import BadConfig, BadData, ran_out_of_memory, storage_error

# The newest may be damaged by what ended the run; then the one before it is used.
KEEP = 3


class CheckpointStore:
    """The checkpoints of one run, in one directory; `config` is everything that the weights depend on.

    `defaults` stands for what a checkpoint does not name: it is older than that parameter. One process saves
    and loads the whole state. Of a state of which each process has a part, all of them call `dcp.save`, with
    their group, and rank 0 writes the manifest once all have written.
    """

    def __init__(
        self,
        directory: storage.Directory,
        config: Mapping[str, Any],
        defaults: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.directory = directory
        self.config = dict(config)
        self._defaults = defaults
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None

    def save(self, epoch: int, batch: int, state: Mapping[str, Any]) -> None:
        """Copy the state after `epoch` epochs and `batch` batches of the next, and have a thread write it.

        First waits for the write before, as `flush` does. The newest KEEP checkpoints are kept.
        """
        self.flush()
        self._under_way = self._executor.submit(self._publish, epoch, batch, _copy_to_cpu(state))

    def flush(self) -> None:
        """Return when all is written.

        Raises Temporary when the disk was full; earlier checkpoints are kept then.
        """
        write, self._under_way = self._under_way, None
        if write:
            write.result()

    def latest(self) -> dict[str, Any] | None:
        """Return the newest state that is not damaged, or None.

        Raises BadConfig naming the key when it was trained with another configuration, and BadData when it
        has the right hashes but is no state.
        """
        self.flush()
        for name in files_of(self.directory):
            try:
                return self._load(name)
            except Damaged as damage:
                warn(self.directory, name, damage)
        return None

    def clear(self) -> None:
        """Delete all checkpoints, for a run that starts from scratch."""
        for files in files_of(self.directory).values():
            self._remove(files)

    def _publish(self, epoch: int, batch: int, state: dict[str, Any]) -> None:
        name = f"epoch-{epoch:06d}-batch-{batch:06d}"
        place = self.directory.place(name)
        try:
            size = self._write(name, state)
            self._prune(name)
        except OSError as error:
            raise storage_error("writing the checkpoint", place, error) from error
        finally:
            _free(state)
        log.event("checkpoint_written", path=place, epoch=epoch, batch=batch, bytes=size)

    def _write(self, name: str, state: dict[str, Any]) -> int:
        """Write a checkpoint, and return its size; leave nothing of it when that fails."""
        directory = self.directory / name
        directory.remove_all()  # a damaged one
        try:
            files = dcp.save(state, directory)
            manifest = {"config": self.config, "files": files}
            directory.publish(MANIFEST, json.dumps(manifest, sort_keys=True, indent=1).encode())
        except BaseException:
            with suppress(OSError):
                directory.remove_all()
            raise
        return sum(one["bytes"] for one in files.values())

    def _prune(self, newest: str) -> None:
        """Remove what is older than the newest KEEP, or was not completed, or is damaged.

        Damaged is what is later than the newest: the training would have resumed from it otherwise.
        """
        found = files_of(self.directory)
        complete = [name for name, files in found.items() if name <= newest and is_complete(name, files)]
        for name in found.keys() - complete[:KEEP]:
            self._remove(found[name])

    def _remove(self, files: list[str]) -> None:
        for file in files:
            self.directory.remove(file)

    def _load(self, name: str) -> dict[str, Any]:
        place = self.directory.place(name)
        with verified(self.directory, name) as (config, files):
            self._require_same_config(config, place)
            log.event("checkpoint_read", path=place)
            try:
                return _load_single_file(files[name]) if name in files else dcp.load(files)
            except OSError as error:
                raise storage_error("reading the checkpoint", place, error) from error
            except Exception as error:
                if ran_out_of_memory(error):
                    raise
                raise BadData(
                    f"{place} has the hashes of its manifest and cannot be loaded ({error}); use the image "
                    "that wrote it, or remove it to resume from the one before"
                ) from error

    def _require_same_config(self, config: Mapping[str, Any], place: str) -> None:
        config = {**self._defaults, **config}
        for key in sorted(self.config.keys() | config.keys()):
            if self.config.get(key) != config.get(key):
                raise BadConfig(
                    f"{place} was trained with {key}={config.get(key)!r}, this run has "
                    f"{key}={self.config.get(key)!r}; use the value of the checkpoint, "
                    "another --run-key, or start from scratch without --resume-if-exists"
                )


def _copy_to_cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that training does not change; DCP's own one shares a CPU's tensors in torch 2.6."""
    return tree_map_only(torch.Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), dict(state))


def _free(state: Mapping[str, Any]) -> None:
    """Give back the memory of a copy, which cycles in DCP would hold until the next garbage collection."""
    tree_map_only(torch.Tensor, lambda tensor: tensor.untyped_storage().resize_(0), state)


def _load_single_file(stream: BufferedIOBase) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(BytesIO(stream.read()), map_location="cpu", weights_only=True)
    return state
