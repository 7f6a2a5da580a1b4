"""Training in several processes: one for each GPU of each node, which all do a share of every batch.

It is the training of one process: the rows of a batch do not depend on how many share it, their gradients
are added up before each step of the optimizer, and rank 0 alone writes checkpoints, MLflow and the model.
So a checkpoint of two nodes resumes on one, and the other way round. Only what a layer draws at random
(dropout) is each process's own.

The environment says who takes part, by torchrun's names: `MASTER_ADDR`, `MASTER_PORT`, `WORLD_SIZE`
(processes in all), `LOCAL_WORLD_SIZE` (those of this node) and `NODE_RANK`. Without it one process trains
alone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trainyard_trainer import log, result
from trainyard_trainer.errors import BadConfig, Preempted, ran_out_of_memory
from trainyard_trainer.preemption import Preemption
from trainyard_trainer.tracking import Tracker

if TYPE_CHECKING:
    import torch

_GATHER_SECONDS = 1800  # for all processes to come: another node may still pull the image
_EXCHANGE_SECONDS = 300  # for all to bring their share of a batch; TRAINYARD_PEER_TIMEOUT replaces it
_LOOK_SECONDS = 0.2
_CONNECT_SECONDS = 5
# Of the exit codes of processes that fail together, the first of these tells most. 143 tells least: whoever
# loses a peer exits with it.
_TELLING = (64, 65, 70, 137, 75)


class LostPeer(Preempted):
    """Another process of the gang is gone: this one can only go on together with a new one."""


@dataclass(frozen=True)
class Place:
    """The place of this process among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those of this node; the GPU it uses
    local_size: int = 1
    address: str = ""  # of rank 0
    port: int = 0

    @classmethod
    def from_environment(cls) -> Place:
        """Read the environment. Raises BadConfig naming the variable."""
        local_size = _number("LOCAL_WORLD_SIZE", 1, least=1)
        size = _number("WORLD_SIZE", 1, least=1)
        local_rank = _number("LOCAL_RANK", 0)
        rank = _number("RANK", _number("NODE_RANK", 0) * local_size + local_rank)
        if size == 1:
            return cls()
        if rank >= size or local_rank >= local_size or size % local_size:
            raise BadConfig(
                f"RANK {rank} of WORLD_SIZE {size}, LOCAL_RANK {local_rank} of LOCAL_WORLD_SIZE "
                f"{local_size}: ranks count from 0, and all nodes have the same number of processes"
            )
        address, port = os.environ.get("MASTER_ADDR", ""), _number("MASTER_PORT", 0)
        if not address or not port:
            raise BadConfig(f"WORLD_SIZE is {size}: MASTER_ADDR and MASTER_PORT must say where rank 0 is")
        return cls(rank, size, local_rank, local_size, address, port)

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes: checkpoints, MLflow, the model."""
        return self.rank == 0

    def tags(self) -> dict[str, str]:
        """What the MLflow run says about it."""
        nodes = self.size // self.local_size
        return {"trainyard.nodes": str(nodes), "trainyard.world_size": str(self.size)}

    @property
    def starts_processes(self) -> bool:
        """Whether this process only starts those which train, one for each GPU."""
        return self.local_size > 1 and "LOCAL_RANK" not in os.environ


class SilentTracker(Tracker):
    """What the others have instead of an MLflow run: rank 0 records for all."""

    def __init__(self) -> None:
        """Connect to nothing."""
        self.run_id = self.experiment_id = ""

    def tag(self, tags: Mapping[str, str]) -> None:
        """Do nothing."""

    def params(self, params: Mapping[str, Any]) -> None:
        """Do nothing."""

    def epochs(self, history: Sequence[Mapping[str, Any]], *, patient: bool) -> bool:
        """Do nothing."""
        return True

    def end(self, *, failed: bool = False) -> None:
        """Do nothing."""


class Group:
    """The processes that train together; with one of them, every method is what it is without others."""

    def __init__(self, place: Place, device: torch.device, preemption: Preemption) -> None:
        """For `join`."""
        self.place = place
        self._stopped = False  # whether all know that SIGTERM came to one of them
        self._device = device
        self._preemption = preemption

    def share(self, rows: torch.Tensor) -> torch.Tensor:
        """Return those of a batch's rows which are this process's; none where there are too few."""
        return rows.tensor_split(self.place.size)[self.place.rank]

    def add_up(self, parameters: Sequence[torch.nn.Parameter], *numbers: float) -> list[float]:
        """Add up the gradients over all processes, in place, and some numbers with them.

        Raises LostPeer when a process does not answer.
        """
        if self.place.size == 1:
            return list(numbers)
        import torch

        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        own = torch.tensor([self._preemption.requested, *numbers], dtype=torch.float32, device=self._device)
        # In one tensor: latency, not bandwidth, is what many small ones cost.
        flat = torch.cat([grad.reshape(-1) for grad in grads] + [own])
        with _noticing_lost_peers():
            torch.distributed.all_reduce(flat)
        *summed, totals = flat.split([grad.numel() for grad in grads] + [len(own)])
        for parameter, grad, part in zip(parameters, grads, summed, strict=True):
            parameter.grad = part.view_as(grad).to(grad.dtype)
        stopped, *others = totals.tolist()
        self._stopped = stopped > 0
        return others

    def stop_together(self) -> None:
        """Raise Preempted on all processes alike once they have agreed to stop."""
        if self._stopped:
            raise Preempted

    def pause(self, seconds: float) -> None:
        """Wait as long as rank 0 wants to, or until all have agreed to stop."""
        if self.place.size == 1:
            time.sleep(max(0.0, seconds))
            return
        end = time.monotonic() + seconds
        while True:
            (left,) = self.add_up([], max(0.0, end - time.monotonic()) if self.place.leads else 0.0)
            if self._stopped or left <= 0:
                return
            time.sleep(min(1.0, left))

    def from_leader(self, state: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return rank 0's `state` on every rank: views of one volume may differ for a moment."""
        if self.place.size == 1:
            return dict(state) if state is not None else None
        import torch

        buffer = BytesIO()
        torch.save(dict(state or {}), buffer)
        payload = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8).to(self._device)
        length = torch.tensor([len(payload)], device=self._device)
        with _noticing_lost_peers():
            torch.distributed.broadcast(length, src=0)
            if not self.place.leads:
                payload = torch.empty(int(length), dtype=torch.uint8, device=self._device)
            torch.distributed.broadcast(payload, src=0)
        received = BytesIO(payload.cpu().numpy().tobytes())
        return dict(torch.load(received, map_location="cpu", weights_only=True)) or None


@contextmanager
def join(place: Place, device: torch.device, preemption: Preemption) -> Iterator[Group]:
    """Meet the other processes, over gloo on CPUs and NCCL on GPUs; part from them at the end.

    A SIGTERM while waiting for them is heard at once; afterwards by `Group.stop_together`.
    Raises LostPeer when not all come.
    """
    if place.size == 1:
        yield Group(place, device, preemption)
        return
    import torch

    # NCCL otherwise ends the whole process when a peer is gone, and nobody could write a checkpoint.
    os.environ.setdefault("NCCL_BLOCKING_WAIT", "1")
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    seconds = _number("TRAINYARD_PEER_TIMEOUT", _EXCHANGE_SECONDS, least=1)
    backend = "nccl" if device.type == "cuda" else "gloo"
    with _noticing_lost_peers():
        torch.distributed.init_process_group(
            backend,
            store=_gather(place, seconds),
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=seconds),
        )
    log.event("gang_complete", rank=place.rank, size=place.size, backend=backend, leader=place.address)
    try:
        with preemption.deferred():
            yield Group(place, device, preemption)
    finally:
        with suppress(RuntimeError):
            torch.distributed.destroy_process_group()


def start(place: Place, arguments: Sequence[str]) -> int:
    """Run the trainer with these arguments once for each GPU of this node; return the exit code of all.

    The most telling of the failures is the node's, and leaves its result.
    """
    with TemporaryDirectory() as directory:
        results = [Path(directory) / f"{rank}.json" for rank in range(place.local_size)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "trainyard_trainer", *arguments],
                env=os.environ | {"LOCAL_RANK": str(rank), "TRAINYARD_RETURN": str(file)},
            )
            for rank, file in enumerate(results)
        ]

        def forward(signum: int, frame: Any) -> None:
            for process in processes:
                process.send_signal(signum)

        before = signal.signal(signal.SIGTERM, forward)
        try:
            codes = wait(processes)
        finally:
            signal.signal(signal.SIGTERM, before)
        chosen = codes.index(most_telling(codes))
        if results[chosen].exists():
            result.write(json.loads(results[chosen].read_text()))
        return codes[chosen]


def wait(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for all processes, and stop the others as soon as one fails; return their exit codes."""
    stopped = False
    # A list, not a generator: every process is to be looked at, also behind one that still runs.
    while None in (codes := [process.poll() for process in processes]):
        if any(codes) and not stopped:
            stopped = True
            for process in processes:
                process.terminate()
        time.sleep(_LOOK_SECONDS)
    return [_contract_code(process.returncode) for process in processes]


def most_telling(codes: Sequence[int]) -> int:
    """Return the exit code of processes that end together; 0 when all did well."""
    failures = [code for code in codes if code]
    unknown = [code for code in failures if code not in (*_TELLING, 143)]
    return next((code for code in (*_TELLING, *unknown, 143) if code in failures), 0)


def _contract_code(returncode: int) -> int:
    """A process that died of a signal exits as a shell would say it."""
    return 128 - returncode if returncode < 0 else returncode


def _gather(place: Place, seconds: int) -> Any:
    """Return the store that all processes share, once all of them are there."""
    from torch.distributed import TCPStore

    deadline = time.monotonic() + _GATHER_SECONDS
    if not place.leads:
        _await_leader(place, deadline)
    store = TCPStore(
        "127.0.0.1" if place.leads else place.address,
        place.port,
        place.size,
        is_master=place.leads,
        timeout=timedelta(seconds=seconds),
        wait_for_workers=False,
    )
    here, seen = int(store.add("here", 1)), 0
    while here < place.size:
        if here != seen:
            log.event("waiting_for_peers", here=here, size=place.size)
            seen = here
        if time.monotonic() > deadline:
            raise LostPeer(f"only {here} of {place.size} processes came within {_GATHER_SECONDS} s")
        time.sleep(_LOOK_SECONDS)
        here = int(store.add("here", 0))
    return store


def _await_leader(place: Place, deadline: float) -> None:
    """Wait until rank 0 has a name and listens. In Python: torch's own waiting would not hear SIGTERM."""
    reported = False
    while True:
        try:
            socket.create_connection((place.address, place.port), timeout=_CONNECT_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise LostPeer(f"rank 0 at {place.address} did not answer: {error}") from error
            if not reported:
                log.event("waiting_for_leader", address=place.address, reason=str(error))
                reported = True
        time.sleep(_LOOK_SECONDS)


@contextmanager
def _noticing_lost_peers() -> Iterator[None]:
    """Turn what torch raises when a peer does not answer (RuntimeError, or a kind of it) into LostPeer."""
    try:
        yield
    except RuntimeError as error:
        if ran_out_of_memory(error):
            raise
        raise LostPeer(f"a process of the gang does not answer: {error}") from error


def _number(name: str, default: int, least: int = 0) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdigit() or int(text) < least:
        raise BadConfig(f"{name} is {text!r}; use a whole number of at least {least}")
    return int(text)
