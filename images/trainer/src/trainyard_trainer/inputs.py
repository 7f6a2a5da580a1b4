"""The inputs of a split's rows: all of them on the device, or read from their file as they are needed."""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from trainyard_trainer.errors import CodeError, OutOfMemory

Numbers: TypeAlias = npt.NDArray[np.int64]
"""Rows by their numbers."""

_ENDING_SECONDS = 2  # after which the end of a process is known
# In the words by which the platform knows it: it names the key then.
OUT_OF_SHARED_MEMORY = "the DataLoader's workers are out of shared memory"


class Inputs(ABC):
    """Inputs by row, on the device that trains."""

    waited = 0.0  # seconds, for inputs that were not there yet

    @abstractmethod
    def follow(self, parts: Iterable[torch.Tensor]) -> None:
        """Be told of the rows that `of` is called with from now on, in this order."""

    @abstractmethod
    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the inputs of the rows that come next."""

    @abstractmethod
    def parts(self, size: int) -> Iterator[torch.Tensor]:
        """Return all inputs, in parts of at most `size` rows."""


class OnDevice(Inputs):
    """Inputs that the device holds: the fastest where they fit."""

    def __init__(self, inputs: npt.NDArray[Any], device: torch.device) -> None:
        """Copy the inputs to the device."""
        self._inputs = torch.from_numpy(inputs).to(device)

    def follow(self, parts: Iterable[torch.Tensor]) -> None:
        """Do nothing: all are there."""

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the inputs of these rows."""
        return self._inputs[rows]

    def parts(self, size: int) -> Iterator[torch.Tensor]:
        """Return all inputs, in parts."""
        return iter(self._inputs.split(size))


class FromFile(Inputs):
    """Inputs in a .npy file of any size, which processes of torch's DataLoader read ahead.

    What they have read lies in shared memory until it is trained: two parts for each process.
    """

    def __init__(self, inputs: np.memmap[Any, Any], device: torch.device, processes: int) -> None:
        """Read the file that `inputs` is mapped from."""
        self._inputs = inputs
        self._device = device
        self._processes = processes
        self._order = _Order()
        self._loader: DataLoader[torch.Tensor] | None = None
        self._next: Iterator[torch.Tensor] = iter(())

    def follow(self, parts: Iterable[torch.Tensor]) -> None:
        """Begin to read these rows."""
        self._order.parts = [part.cpu().numpy() for part in parts]
        if not self._loader:
            # Not by fork: a thread of this process may hold a lock at that moment.
            processes = get_context("forkserver")
            processes.set_forkserver_preload(["trainyard_trainer.own_group", __name__])
            self._loader = DataLoader(
                _Rows(Path(str(self._inputs.filename))),
                sampler=self._order,
                batch_size=None,
                num_workers=self._processes,
                multiprocessing_context=processes,
                persistent_workers=True,
                pin_memory=self._device.type == "cuda",
                generator=torch.Generator(),  # it draws a number, which is not to be one of the training's
            )
        self._next = iter(self._loader)

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the inputs that were read next; `follow` was told of these rows."""
        began = time.monotonic()
        try:
            inputs = next(self._next)
        except (RuntimeError, OSError, EOFError) as error:
            self._raise_if_one_ended(error)
            raise
        self.waited += time.monotonic() - began
        return inputs.to(self._device, non_blocking=True)

    def _raise_if_one_ended(self, error: Exception) -> None:
        """Raise the cause where a process that reads has ended, of which torch tells in many ways."""
        processes = getattr(self._next, "_workers", [])
        wait([process.sentinel for process in processes], timeout=_ENDING_SECONDS)
        codes = [process.exitcode for process in processes]
        if -signal.SIGKILL in codes:
            raise OutOfMemory("a process that reads inputs was killed") from error
        if -signal.SIGBUS in codes:
            raise CodeError(OUT_OF_SHARED_MEMORY) from error
        if ended := [code for code in codes if code is not None]:
            raise CodeError(f"a process that reads inputs ended with exit code {ended[0]}") from error

    def parts(self, size: int) -> Iterator[torch.Tensor]:
        """Read all inputs, part by part."""
        for first in range(0, len(self._inputs), size):
            yield torch.from_numpy(np.array(self._inputs[first : first + size])).to(self._device)


def of_column(values: npt.NDArray[Any], device: torch.device, processes: int) -> Inputs:
    """Return the inputs of a column of a dataset: those of a file that is mapped stay there."""
    if isinstance(values, np.memmap):
        return FromFile(values, device, processes)
    return OnDevice(values, device)


class _Rows(Dataset[torch.Tensor]):
    """The rows of a .npy file, by lists of their numbers; each process opens the file itself."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._inputs: npt.NDArray[Any] | None = None

    def __getitem__(self, rows: Numbers) -> torch.Tensor:
        if self._inputs is None:
            self._inputs = np.load(self._file, mmap_mode="r", allow_pickle=False)
        # Here and not as it is sent, where an error would be lost.
        return torch.from_numpy(self._inputs[rows]).share_memory_()


class _Order(Sampler[Numbers]):
    """What is read next. It stays with the DataLoader, whose processes outlive an epoch."""

    def __init__(self) -> None:
        self.parts: list[Numbers] = []

    def __iter__(self) -> Iterator[Numbers]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)
