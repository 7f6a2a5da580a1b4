"""Training in several processes, one for each GPU of each node, which share every batch (data parallelism).

The result is that of one process: the rows of a batch do not depend on the number of processes, torch's
DistributedDataParallel exchanges the gradients, and rank 0 alone writes checkpoints, logs to MLflow and saves
the model. So a checkpoint of two nodes can be resumed on one node, and the other way round. Only what a layer
draws at random (dropout), or computes of all rows of its process (BatchNorm), depends on their number.

The environment describes the processes by torchrun's names: `MASTER_ADDR`, `MASTER_PORT`, `WORLD_SIZE`
(processes in all), `LOCAL_WORLD_SIZE` (processes of this node) and `NODE_RANK`. Without them one process
trains alone.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trainyard_contract import Env, ExitCode, Tag

from trainyard_trainer import log, result
from trainyard_trainer.epoch_sender import History
from trainyard_trainer.errors import BadConfig, Preempted, ran_out_of_memory
from trainyard_trainer.preemption import Preemption
from trainyard_trainer.settings import number, positive_number
from trainyard_trainer.tracking import Tracker

if TYPE_CHECKING:
    import torch

_GATHER_SECONDS = 1800  # for all processes to connect: another node may still pull the image
_EXCHANGE_SECONDS = 300  # for one collective call; Env.PEER_TIMEOUT replaces it
_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 5
# A node that is lost says nothing. The kernel asks for it on a connection that is silent for 10 s, and breaks
# that after three questions without an answer. One with data that nobody confirms breaks as soon.
_BREAK_OFF = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
# Of gloo alone: NCCL also sends to a peer that is busy and does not receive for a while.
_BREAK_OFF_GLOO = (*_BREAK_OFF, (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000))  # milliseconds
# Of processes that fail together, the first of these exit codes is the cause. PREEMPTED comes last: a process
# that loses a peer exits with it.
_CAUSES_FIRST = (
    ExitCode.BAD_CONFIG,
    ExitCode.BAD_DATA,
    ExitCode.CODE_ERROR,
    ExitCode.OUT_OF_MEMORY,
    ExitCode.TEMPORARY,
)


# What was exchanged last, until the process ends. Gloo's threads let go of it a little later, and need the
# GIL to free what nobody else holds. The end of torch's group has the GIL, and waits for them for ever.
_EXCHANGED: deque[Any] = deque(maxlen=8)

# What gloo and NCCL say of a process that is gone.
_PEER_ERROR = re.compile(r"gloo|nccl|Dist\w+Error", re.IGNORECASE)


class PeerLost(Preempted):
    """Another process of the gang is gone: this one can only continue together with a new one."""


@dataclass(frozen=True)
class Worker:
    """One of the processes that train together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among the processes of this node; the index of its GPU
    local_world_size: int = 1
    master_addr: str = ""  # of rank 0
    master_port: int = 0

    @classmethod
    def from_environment(cls) -> Worker:
        """Read the environment. Raises BadConfig naming the variable."""
        local_world_size = positive_number(Env.LOCAL_WORLD_SIZE, 1)
        world_size = positive_number(Env.WORLD_SIZE, 1)
        local_rank = number(Env.LOCAL_RANK, 0)
        rank = number(Env.RANK, number(Env.NODE_RANK, 0) * local_world_size + local_rank)
        if world_size == 1:
            return cls()
        if rank >= world_size or local_rank >= local_world_size or world_size % local_world_size:
            raise BadConfig(
                f"{Env.RANK} {rank} of {Env.WORLD_SIZE} {world_size}, {Env.LOCAL_RANK} {local_rank} of "
                f"{Env.LOCAL_WORLD_SIZE} {local_world_size}: ranks count from 0, and all nodes have the same "
                "number of processes"
            )
        address, port = os.environ.get(Env.MASTER_ADDR, ""), number(Env.MASTER_PORT, 0)
        if not address or not port:
            raise BadConfig(
                f"{Env.WORLD_SIZE} is {world_size}, so set {Env.MASTER_ADDR} and {Env.MASTER_PORT} to the "
                "address of rank 0"
            )
        return cls(rank, world_size, local_rank, local_world_size, address, port)

    @property
    def is_leader(self) -> bool:
        """Whether this is rank 0, which writes checkpoints, logs to MLflow and saves the model."""
        return self.rank == 0

    @property
    def is_launcher(self) -> bool:
        """Whether this process does not train itself, but starts one process for each GPU of the node."""
        return self.local_world_size > 1 and Env.LOCAL_RANK not in os.environ

    def tags(self) -> dict[str, str]:
        """Return the tags of the MLflow run."""
        nodes = self.world_size // self.local_world_size
        return {Tag.NODES: str(nodes), Tag.WORLD_SIZE: str(self.world_size)}


class NullTracker(Tracker):
    """Logs nothing: for the processes other than rank 0."""

    def __init__(self) -> None:
        """Connect to nothing."""
        self.run_id = self.experiment_id = ""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Do nothing."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_epochs(self, history: History) -> None:
        """Do nothing."""

    def log_epochs_meanwhile(self, history: History) -> None:
        """Do nothing."""

    def end(self, *, failed: bool = False) -> None:
        """Do nothing."""


class ProcessGroup:
    """The processes that train together. With one process, no method communicates."""

    def __init__(self, worker: Worker, device: torch.device, preemption: Preemption) -> None:
        """Use `process_group` to make one."""
        self.worker = worker
        self._device = device
        self._preemption = preemption
        self._stopped = False  # whether all processes know that one of them received SIGTERM
        self._begun: tuple[torch.Tensor, Any] | None = None  # the sum, and torch's handle of the exchange
        self._notices = False  # whether the connections of the first exchange are asked for lost nodes

    def shard(self, rows: torch.Tensor) -> torch.Tensor:
        """Return this process's share of a batch's rows; it is empty where there are too few."""
        return rows.tensor_split(self.worker.world_size)[self.worker.rank]

    def replicate(self, network: torch.nn.Module) -> torch.nn.Module:
        """Return the network in whose backward pass the gradients become the means over all processes.

        Its weights become those of rank 0. Raises PeerLost when a process does not respond.
        """
        if self.worker.world_size == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        devices = [self._device] if self._device.type == "cuda" else None
        with peer_errors(in_network=True):
            replica = DistributedDataParallel(
                network,
                device_ids=devices,
                broadcast_buffers=False,  # they are shared once an epoch, not with each batch
                find_unused_parameters=True,  # as one process trains a network that does not use all of them
            )
        notice_lost_nodes()
        return replica

    def alone(self, replica: torch.nn.Module) -> AbstractContextManager[None]:
        """Let backward passes in the block add to the gradients of this process only."""
        return nullcontext() if self.worker.world_size == 1 else replica.no_sync()

    @contextmanager
    def undone_without_peer(self, network: torch.nn.Module) -> Iterator[None]:
        """Restore the network's buffers and the random state, and drop the sum, when a peer is lost.

        A process alone loses none, and copies nothing.
        """
        if self.worker.world_size == 1:
            yield
            return
        import torch

        random, before = torch.get_rng_state(), [buffer.clone() for buffer in network.buffers()]
        try:
            yield
        except PeerLost:
            torch.set_rng_state(random)
            for buffer, value in zip(network.buffers(), before, strict=True):
                buffer.copy_(value)
            self._begun = None
            raise

    def begin_sum(self, number: torch.Tensor) -> None:
        """Begin to sum a number of the device over all processes, and to tell them of a SIGTERM.

        `end_sum` returns the sum. Between the two the device has other work.
        """
        if self.worker.world_size == 1:
            self._begun = number, None
            return
        import torch

        totals = torch.stack([number, torch.full_like(number, self._preemption.pending)])
        _EXCHANGED.append(totals)
        with peer_errors():
            self._begun = totals, torch.distributed.all_reduce(totals, async_op=True)

    def end_sum(self) -> torch.Tensor | None:
        """Return the sum that was begun, on the device; None if none was.

        Raises PeerLost when a process does not respond. What it has contributed is lost then.
        """
        if self._begun is None:
            return None
        (totals, work), self._begun = self._begun, None
        if work is None:
            return totals
        with peer_errors():
            work.wait()
        if not self._notices:  # NCCL connects as it is used
            self._notices = True
            notice_lost_nodes()
        self._stopped = bool(totals[1] > 0)
        return totals[0]

    def share_buffers(self, network: torch.nn.Module) -> None:
        """Give all processes rank 0's buffers, as BatchNorm's means: each process has those of its own rows.

        Raises PeerLost when a process does not respond.
        """
        if self.worker.world_size == 1:
            return
        import torch

        with peer_errors():
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def raise_if_preempted(self) -> None:
        """Raise Preempted on all processes once all know that one of them received SIGTERM."""
        if self._stopped:
            raise Preempted

    def sleep(self, seconds: float) -> None:
        """Sleep for rank 0's number of seconds, or until all know of a SIGTERM."""
        if self.worker.world_size == 1:
            time.sleep(max(0.0, seconds))
            return
        end = time.monotonic() + seconds
        while True:
            own = max(0.0, end - time.monotonic()) if self.worker.is_leader else 0.0
            left = self._sum(own)
            if self._stopped or left <= 0:
                return
            time.sleep(min(1.0, left))

    def _sum(self, number: float) -> float:
        import torch

        self.begin_sum(torch.tensor(number, dtype=torch.float64, device=self._device))
        total = self.end_sum()
        return number if total is None else float(total)

    def broadcast(self, state: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return rank 0's `state` on every rank: a shared volume can look different on two nodes for a while.

        Raises PeerLost when a process does not respond.
        """
        if self.worker.world_size == 1:
            return dict(state) if state is not None else None
        import torch

        buffer = BytesIO()
        torch.save(dict(state or {}), buffer)
        # Copies, as memory that Python or NumPy knows of cannot be given back below.
        payload = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8).to(self._device, copy=True)
        length = torch.tensor([len(payload)], device=self._device)
        with peer_errors():
            torch.distributed.broadcast(length, src=0)
            if not self.worker.is_leader:
                payload = torch.empty(int(length), dtype=torch.uint8, device=self._device)
            _EXCHANGED.extend((length, payload))
            torch.distributed.broadcast(payload, src=0)
        own = payload.to("cpu", copy=True)
        payload.untyped_storage().resize_(0)  # `_EXCHANGED` holds the tensor, not a checkpoint's memory
        received = BytesIO(own.numpy().tobytes())
        return dict(torch.load(received, map_location="cpu", weights_only=True)) or None


@contextmanager
def process_group(worker: Worker, device: torch.device, preemption: Preemption) -> Iterator[ProcessGroup]:
    """Connect to the other processes, with gloo on CPUs and NCCL on GPUs; disconnect at the end.

    A SIGTERM raises Preempted at once while the processes connect, and afterwards by
    `ProcessGroup.raise_if_preempted`. Raises PeerLost when not all processes connect.
    """
    if worker.world_size == 1:
        yield ProcessGroup(worker, device, preemption)
        return
    import torch

    # By default NCCL ends the whole process when a peer is lost, and no checkpoint could be written.
    os.environ.setdefault("NCCL_BLOCKING_WAIT", "1")
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    seconds = positive_number(Env.PEER_TIMEOUT, _EXCHANGE_SECONDS)
    backend = "nccl" if device.type == "cuda" else "gloo"
    with peer_errors():
        torch.distributed.init_process_group(
            backend,
            store=_rendezvous(worker, seconds),
            rank=worker.rank,
            world_size=worker.world_size,
            timeout=timedelta(seconds=seconds),
        )
    log.event(
        "gang_complete",
        rank=worker.rank,
        size=worker.world_size,
        backend=backend,
        leader=worker.master_addr,
    )
    try:
        with preemption.deferred():
            yield ProcessGroup(worker, device, preemption)
    finally:
        with suppress(RuntimeError):
            torch.distributed.destroy_process_group()


def notice_lost_nodes() -> None:
    """Have the kernel break the connections of this process to a node that is gone, not wait for minutes.

    All of its connections: torch does not tell which are its own, and MLflow's may break as well.
    """
    import torch

    options = _BREAK_OFF_GLOO if torch.distributed.get_backend() == "gloo" else _BREAK_OFF
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # it is closed by now
            if str(descriptor.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(descriptor.name))) as connection:
                    _set(connection, options)


def _set(connection: socket.socket, options: Iterable[tuple[int, int, int]]) -> None:
    if connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6):
        for option in options:
            connection.setsockopt(*option)


def launch(worker: Worker, arguments: Sequence[str]) -> int:
    """Run the trainer with these arguments once for each GPU of this node; return one exit code for all.

    When processes fail, the exit code and the result of the one that tells the cause are used.
    """
    with TemporaryDirectory() as directory:
        results = [Path(directory) / f"{rank}.json" for rank in range(worker.local_world_size)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "trainyard_trainer", *arguments],
                env=os.environ | {Env.LOCAL_RANK: str(rank), Env.RETURN_FILE: str(file)},
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
        chosen = codes.index(root_cause(codes))
        if results[chosen].exists():
            result.write(json.loads(results[chosen].read_text()))
        return codes[chosen]


def wait(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for all processes, and terminate the others as soon as one fails; return their exit codes."""
    terminated = False
    # A list, not a generator: each process must be polled, also after one that still runs.
    while None in (codes := [process.poll() for process in processes]):
        if any(codes) and not terminated:
            terminated = True
            for process in processes:
                process.terminate()
        time.sleep(_POLL_SECONDS)
    return [_shell_exit_code(process.returncode) for process in processes]


def root_cause(codes: Sequence[int]) -> int:
    """Return the exit code that tells why processes ended together; 0 when all succeeded."""
    failures = [code for code in codes if code != ExitCode.DONE]
    unknown = [code for code in failures if code not in (*_CAUSES_FIRST, ExitCode.PREEMPTED)]
    ordered = (*_CAUSES_FIRST, *unknown, ExitCode.PREEMPTED)
    return next((int(code) for code in ordered if code in failures), int(ExitCode.DONE))


def _shell_exit_code(returncode: int) -> int:
    """Return the exit code as a shell reports it: 128 and the signal's number for a killed process."""
    return 128 - returncode if returncode < 0 else returncode


def _rendezvous(worker: Worker, seconds: int) -> Any:
    """Return the store that all processes share, once all of them are connected."""
    from torch.distributed import TCPStore

    deadline = time.monotonic() + _GATHER_SECONDS
    if not worker.is_leader:
        _wait_for_leader(worker, deadline)
    store = TCPStore(
        "127.0.0.1" if worker.is_leader else worker.master_addr,
        worker.master_port,
        worker.world_size,
        is_master=worker.is_leader,
        timeout=timedelta(seconds=seconds),
        wait_for_workers=False,
        use_libuv=False,  # which Debian's torch is built without
    )
    here, reported = int(store.add("here", 1)), 0
    while here < worker.world_size:
        if here != reported:
            log.event("waiting_for_peers", here=here, size=worker.world_size)
            reported = here
        if time.monotonic() > deadline:
            raise PeerLost(
                f"only {here} of {worker.world_size} processes connected within {_GATHER_SECONDS} s"
            )
        time.sleep(_POLL_SECONDS)
        here = int(store.add("here", 0))
    return store


def _wait_for_leader(worker: Worker, deadline: float) -> None:
    """Wait until rank 0 listens. In Python, because torch's own wait does not react to SIGTERM."""
    address = worker.master_addr
    reported = False
    while True:
        try:
            socket.create_connection((address, worker.master_port), timeout=_CONNECT_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise PeerLost(f"rank 0 at {address} did not respond: {error}") from error
            if not reported:
                log.event("waiting_for_leader", address=address, reason=str(error))
                reported = True
        time.sleep(_POLL_SECONDS)


@contextmanager
def peer_errors(*, in_network: bool = False) -> Iterator[None]:
    """Turn torch's RuntimeError, and its subclasses, for a peer that does not respond into PeerLost.

    `in_network` the network's own code may fail as well: what does not tell of a peer is left as it is.
    """
    try:
        yield
    except RuntimeError as error:
        is_own = in_network and not _PEER_ERROR.search(f"{type(error).__name__} {error}")
        if is_own or ran_out_of_memory(error):
            raise
        raise PeerLost(f"a process of the gang does not respond: {error}") from error
