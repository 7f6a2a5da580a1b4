"""Several processes train one model: as one process would, and together or not at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Ended, Steps, free_port, train
from trainyard_trainer import compute, distributed
from trainyard_trainer.distributed import Worker
from trainyard_trainer.errors import BadConfig
from trainyard_trainer.preemption import Preemption

# Without dropout, which each process draws for itself, the weights differ in rounding only.
PARAMS = {"epochs": 2, "batch_size": 150, "dropout": 0.0}
SLOW = PARAMS | {"epoch_seconds": 20}
GANG = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "TRAINYARD_PEER_TIMEOUT": "30"}


@pytest.fixture(scope="module")
def alone(processed: str, tmp_path_factory) -> Ended:
    return train(tmp_path_factory.mktemp("alone"), processed, PARAMS)


def start(steps: Steps, processed: str, params: dict) -> list:
    """Two nodes of one process each."""
    gang = GANG | {"MASTER_PORT": str(free_port())}
    return [
        steps.start(
            "train",
            processed,
            "--resume-if-exists",
            params=params,
            **gang,
            NODE_RANK=str(rank),
            TRAINYARD_RETURN=f"{steps.return_file}.{rank}",
        )
        for rank in range(2)
    ]


def end(steps: Steps, processes: list) -> list[Ended]:
    ended = []
    for rank, process in enumerate(processes):
        file = Path(f"{steps.return_file}.{rank}")
        one = steps.end(process)
        ended.append(
            Ended(one.code, json.loads(file.read_text()) if file.exists() else {}, one.events, one.text)
        )
    return ended


def same(ended: Ended, alone: Ended) -> None:
    assert ended.code == 0, ended.text
    for metric in ("train_loss", "val_loss", "val_f1_macro"):
        assert ended.result[metric] == pytest.approx(alone.result[metric], rel=1e-3)


def test_two_nodes_train_what_one_does_and_rank_0_alone_records_it(steps, processed, alone):
    leader, other = end(steps, start(steps, processed, PARAMS))
    same(leader, alone)
    assert other.code == 0, other.text
    assert other.result["rank"] == 1
    assert other.result["weights_sha256"] == leader.result["weights_sha256"]
    (run,) = steps.runs()
    assert (run.data.tags["trainyard.nodes"], run.data.tags["trainyard.world_size"]) == ("2", "2")
    assert steps.steps_of("val_f1_macro") == [1, 2]
    assert len(steps.models()) == 1
    written = [event for event in leader.events if event["event"] == "checkpoint_written"]
    assert written
    assert not [event for event in other.events if event["event"] == "checkpoint_written"]


@pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, (143, 143)), (signal.SIGKILL, (143, -9))])
def test_what_ends_one_ends_both_and_one_process_goes_on(steps, processed, alone, number, codes):
    processes = start(steps, processed, SLOW)
    for line in processes[1].stdout:  # the pause at the end of an epoch is long
        if json.loads(line)["event"] == "gang_complete":
            processes[1].send_signal(number)
            break
    leader, other = end(steps, processes)
    assert (leader.code, other.code) == codes, leader.text + other.text
    assert leader.result["exit_code"] == 143
    resumed = steps.run("train", processed, "--resume-if-exists", params=PARAMS)
    same(resumed, alone)


def test_a_node_of_two_gpus_runs_two_processes(steps, processed, alone):
    gang = GANG | {"MASTER_PORT": str(free_port()), "LOCAL_WORLD_SIZE": "2", "NODE_RANK": "0"}
    ended = steps.run("train", processed, params=PARAMS, **gang)
    same(ended, alone)
    assert len([event for event in ended.events if event["event"] == "epoch_done"]) == PARAMS["epochs"]
    assert steps.runs()[0].data.tags["trainyard.nodes"] == "1"


NORMALIZED = """
import sys
import numpy as np, torch
from trainyard_trainer import compute
from trainyard_trainer.distributed import PeerLost, Worker, process_group
from trainyard_trainer.models.digits import Model
from trainyard_trainer.params import COMMON, complete
from trainyard_trainer.preemption import Preemption
from trainyard_trainer.steps.train import Trainer, batched_forward

class Normalized(Model):
    def network(self, inputs, params):
        layers = torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU()
        return torch.nn.Sequential(*layers, torch.nn.Linear(32, 10))

random = np.random.default_rng(0)
columns = {
    f"{split}_{part}": values.copy()
    for split in ("train", "validation")
    for part, values in {
        "inputs": random.normal(size=(40, 1, 8, 8)).astype(np.float32),
        "labels": random.integers(0, 10, 40),
    }.items()
}
params = complete({"learning_rate": 0.01, "batch_size": 18}, COMMON)  # the last batch has four rows
device = compute.device("cpu", 1)
with process_group(Worker.from_environment(), device, Preemption()) as group:
    def trained(batches, model=Normalized()):
        trainer = Trainer(model, columns, params, device, group=group)
        while trainer.batch < batches:
            trainer.train_batch()
        return trainer

    trainer = trained(3)
    assert trainer.batches == 3 and trainer.network[2].running_mean.abs().sum() > 0
    print(trainer.validate()["val_loss"], compute.weights_sha256(trainer.network))
"""
# The peer is lost at the end of an epoch: between the gradient and the buffers.
LOST_LATE = f"""{NORMALIZED}
    def lose(network):
        del group.share_buffers
        raise PeerLost("gone")

    disturbed = trained(2)
    group.share_buffers = lose
    try:
        disturbed.train_batch()
    except PeerLost:
        disturbed.state()
        disturbed.train_batch()
    print(disturbed.validate()["train_loss"] == trainer.validate()["train_loss"])
    print(compute.weights_sha256(disturbed.network) == compute.weights_sha256(trainer.network))
"""

# A layer that no batch uses, as the head of another task.
SPARE = f"""{NORMALIZED}
    class Spare(torch.nn.Linear):
        def __init__(self):
            super().__init__(64, 10)
            self.spare = torch.nn.Linear(2, 2)

        def forward(self, inputs):
            return super().forward(inputs.flatten(1))

    class WithSpare(Model):
        def network(self, inputs, params):
            return Spare()

    print(compute.weights_sha256(trained(3, WithSpare()).network))
"""
# What two processes have exchanged, in bytes, once a checkpoint has gone from one to the other.
HELD = """
import torch
from trainyard_trainer import distributed
from trainyard_trainer.distributed import Worker, process_group
from trainyard_trainer.preemption import Preemption

worker = Worker.from_environment()
with process_group(worker, torch.device("cpu"), Preemption()) as group:
    state = group.broadcast({"weights": torch.ones(1_000_000)} if worker.is_leader else None)
    print(int(state["weights"].sum()), sum(one.untyped_storage().nbytes() for one in distributed._EXCHANGED))
"""


def told_by_two(script: str) -> list[str]:
    """Run a script in two processes that train together; return their outputs."""
    gang = os.environ | GANG | {"MASTER_PORT": str(free_port())}
    gang["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=gang | {"NODE_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [process.communicate(timeout=120)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        return told
    finally:
        for process in processes:
            process.kill()


def test_batch_normalization_is_the_same_on_all_processes():
    told = told_by_two(NORMALIZED)
    assert told[0] == told[1] != ""


NOTICING = f"""{NORMALIZED}
    import os, socket

    def connections():
        for descriptor in os.listdir("/proc/self/fd"):
            try:
                one = socket.socket(fileno=os.dup(int(descriptor)))
            except OSError:  # no socket
                continue
            if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                yield one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    print(*connections())
"""


def test_a_node_that_is_lost_is_noticed():
    """By the kernel, which asks for it on every connection; tests/e2e/test_distributed.py loses one."""
    for told in told_by_two(NOTICING):
        assert set(told.splitlines()[-1].split()) == {"1"}


def test_a_network_may_have_parameters_that_no_batch_uses():
    first, second = (told.split()[2:] for told in told_by_two(SPARE))
    assert first == second != []


def test_a_checkpoint_that_all_processes_have_read_is_held_by_nobody():
    for told in told_by_two(HELD):
        summed, held = map(int, told.splitlines()[-1].split())
        assert summed == 1_000_000
        assert held < 1000


def test_a_batch_whose_peer_is_lost_at_its_end_counts_once():
    for told in told_by_two(LOST_LATE):
        assert told.split()[2:] == ["True", "True"]


ENDING = """
import dataclasses, sys
import torch
from trainyard_trainer.distributed import Worker, process_group
from trainyard_trainer.preemption import Preemption

sys.setswitchinterval(0.05)  # threads wait long for the GIL, as on a busy node
worker = Worker.from_environment()

def train(number):
    network = torch.nn.Linear(4, 4)
    own = dataclasses.replace(worker, master_port=worker.master_port + number)
    with process_group(own, torch.device("cpu"), Preemption()) as group:
        replica = group.replicate(network)
        replica(torch.ones(2, 4)).sum().backward()
        group.broadcast({"weights": number})

for number in range(8):
    train(number)
print("ended")
"""


def test_the_end_of_a_group_waits_for_no_thread_that_waits_for_it():
    assert [told.splitlines()[-1] for told in told_by_two(ENDING)] == ["ended", "ended"]


@pytest.mark.parametrize(
    ("environment", "worker"),
    [
        ({}, Worker()),
        ({"WORLD_SIZE": "1", "NODE_RANK": "0"}, Worker()),
        ({"WORLD_SIZE": "4", "NODE_RANK": "1"}, Worker(1, 4, 0, 1, "a", 7)),
        ({"WORLD_SIZE": "4", "NODE_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, Worker(2, 4, 0, 2, "a", 7)),
        (
            {"WORLD_SIZE": "4", "NODE_RANK": "1", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"},
            Worker(3, 4, 1, 2, "a", 7),
        ),
        (
            {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"},
            Worker(3, 4, 1, 2, "a", 7),
        ),
    ],
)
def test_the_environment_is_torchruns(monkeypatch, environment, worker):
    for name, value in {"MASTER_ADDR": "a", "MASTER_PORT": "7", **environment}.items():
        monkeypatch.setenv(name, value)
    assert Worker.from_environment() == worker


@pytest.fixture
def two_gpus(monkeypatch) -> list[torch.device]:
    """What torch says where it finds two GPUs; the one that is set is the list's last."""
    chosen: list[torch.device] = []
    answers = {"is_available": True, "device_count": 2, "get_device_name": "a GPU"}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_of_a_node_has_a_gpu_of_its_own(two_gpus, rank):
    assert compute.device("cuda", threads=1, local_rank=rank) == torch.device("cuda", rank)
    assert two_gpus == [torch.device("cuda", rank)]


def test_more_processes_than_gpus_are_refused(two_gpus):
    with pytest.raises(BadConfig, match="LOCAL_RANK is 2, but torch finds 2 CUDA devices"):
        compute.device("cuda", threads=1, local_rank=2)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "MASTER_ADDR"),
        ({"WORLD_SIZE": "2", "NODE_RANK": "2"}, "RANK 2"),
        ({"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "2"}, "LOCAL_WORLD_SIZE"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch, environment, named):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadConfig, match=named):
        Worker.from_environment()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_the_shards_of_a_batch_are_the_batch(size):
    rows = torch.arange(7)
    groups = [
        distributed.ProcessGroup(Worker(rank, size), torch.device("cpu"), Preemption())
        for rank in range(size)
    ]
    assert torch.equal(torch.cat([group.shard(rows) for group in groups]), rows)


@pytest.mark.parametrize(
    ("scripts", "code"),
    [
        (["pass", "pass"], 0),
        (["import time; time.sleep(60)", "raise SystemExit(65)"], 65),
        (["import time; time.sleep(60)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"], 137),
    ],
)
def test_a_node_ends_when_one_of_its_processes_fails(scripts, code):
    processes = [subprocess.Popen([sys.executable, "-c", script]) for script in scripts]
    codes = distributed.wait(processes)
    assert distributed.root_cause(codes) == code
