"""The state of a training, saved and restored between any two batches."""

import copy
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Steps, completed
from threadpoolctl import threadpool_info, threadpool_limits
from trainyard_contract import Env, ExitCode
from trainyard_trainer import cli, compute, lake, optimization
from trainyard_trainer.checkpoint import CheckpointStore
from trainyard_trainer.distributed import NullTracker, PeerLost, ProcessGroup, Worker
from trainyard_trainer.errors import CodeError, OutOfMemory, Preempted
from trainyard_trainer.models import fraud
from trainyard_trainer.models.digits import Model
from trainyard_trainer.preemption import Preemption
from trainyard_trainer.steps import train
from trainyard_trainer.steps.train import Trainer
from trainyard_trainer.storage import LocalDirectory

EPOCHS = 2
PARAMS = {"seed": 3, "batch_size": 150, "learning_rate": 0.01, "epochs": EPOCHS}
# What differs from one training to the next: times.
UNLIKE = {"timestamp_ms": 0, "samples_per_second": 0, "data_seconds": 0}
RECIPE = {
    "schedule": "cosine",
    "warmup": 0.3,
    "max_gradient_norm": 0.5,
    "accumulate": 2,
    "precision": "bfloat16",
}


@pytest.fixture
def columns(processed: str) -> lake.Columns:
    return lake.read(processed)[0]


def trainer(columns: lake.Columns, **params: object) -> Trainer:
    return Trainer(Model(), columns, completed(Model(), PARAMS | params), compute.device("cpu", threads=1))


def go(training: Trainer, batches: int) -> None:
    for _ in range(batches):
        training.train_batch()
        if training.batch == training.batches:
            training.end_epoch(training.validate() | UNLIKE)


@pytest.mark.parametrize("recipe", [{}, RECIPE])
def test_cut_at_every_batch_it_ends_alike(columns, tmp_path, recipe):
    whole = trainer(columns, **recipe)
    total = EPOCHS * whole.batches
    go(whole, total)
    for cut in range(total + 1):
        first = trainer(columns, **recipe)
        go(first, cut)
        store = CheckpointStore(LocalDirectory(tmp_path / str(cut)), PARAMS)
        store.save(first.epoch, first.batch, first.state())
        torch.manual_seed(99)  # what another process would have
        second = trainer(columns, **recipe)
        second.restore(store.latest())
        go(second, total - cut)
        assert compute.weights_sha256(second.network) == compute.weights_sha256(whole.network)
        assert second.history == whole.history


def from_files(processed: str, scratch: Path, batch_size: int = 150, **params: object) -> Trainer:
    """One whose inputs other processes read from their files."""
    columns = lake.read(processed, mapped_in=scratch)[0]
    return trainer(columns, workers=2, batch_size=batch_size, **params)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_inputs_that_stay_in_their_files_give_the_same_weights(columns, processed, tmp_path, accumulate):
    whole = trainer(columns, accumulate=accumulate)
    go(whole, EPOCHS * whole.batches)
    streamed = from_files(processed, tmp_path, accumulate=accumulate)
    go(streamed, EPOCHS * whole.batches)
    assert compute.weights_sha256(streamed.network) == compute.weights_sha256(whole.network)
    assert streamed.history == whole.history
    assert torch.equal(streamed.examples(), whole.examples())


def test_inputs_that_stay_in_their_files_are_resumed_within_an_epoch(columns, processed, tmp_path):
    whole = trainer(columns)
    go(whole, whole.batches + 2)
    first = from_files(processed, tmp_path)
    go(first, 1)
    state = copy.deepcopy(first.state())
    second = from_files(processed, tmp_path)
    second.restore(state)
    go(second, whole.batches + 1)
    assert compute.weights_sha256(second.network) == compute.weights_sha256(whole.network)


def test_a_batch_that_is_repeated_reads_its_rows_again(columns, processed, tmp_path, monkeypatch):
    """As after the loss of a peer: processes have read ahead."""
    whole = trainer(columns)
    go(whole, 2)
    streamed = from_files(processed, tmp_path)
    go(streamed, 1)
    before = torch.get_rng_state()
    with monkeypatch.context() as patched, pytest.raises(PeerLost):
        patched.setattr(streamed._group, "begin_sum", lose)
        streamed.train_batch()
    torch.set_rng_state(before)
    go(streamed, 1)
    assert compute.weights_sha256(streamed.network) == compute.weights_sha256(whole.network)


@pytest.mark.parametrize(
    ("number", "error", "told"),
    [
        (signal.SIGKILL, OutOfMemory, "a process that reads inputs was killed"),
        (signal.SIGBUS, CodeError, "workers are out of shared memory"),
        (signal.SIGUSR1, CodeError, "ended with exit code -10"),
    ],
)
def test_the_end_of_a_process_that_reads_is_told(processed, tmp_path, number, error, told):
    streamed = from_files(processed, tmp_path, batch_size=1)  # so much is not read ahead
    go(streamed, 1)
    os.kill(streamed._inputs._next._workers[0].pid, number)
    with pytest.raises(error, match=told):
        go(streamed, 20)


def test_what_is_read_from_files_has_no_features(steps, processed):
    ended = steps.run("train", processed, params={"workers": 1, "features_uri": "file:///data/features"})
    assert ended.code == ExitCode.BAD_CONFIG
    assert "parameter 'workers' reads inputs from their files" in ended.result["error"]


def by_itself(steps: Steps, dataset: str, **params: object) -> subprocess.Popen[str]:
    """The step in a session of its own: what the tests fork may have no processes of its own."""
    command = [sys.executable, "-m", "trainyard_trainer", "train", "--run-key", "from-files"]
    command += ["--dataset", dataset, "--output", steps.output.as_uri(), "--resume-if-exists"]
    command += ["--params", json.dumps(params)]
    checkpoints = {Env.CHECKPOINT_DIR: f"{steps.checkpoints}-from-files", Env.CHECKPOINT_FREQ: "100"}
    environment = os.environ | steps.environment | checkpoints
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def test_sigterm_to_all_processes_loses_nothing_that_was_read_from_files(steps, processed):
    """dumb-init tells each process of the container, also those that read."""
    # More parts than are read ahead: they have to go on to read after the signal.
    params = {"epochs": 3, "accumulate": 16}
    held = steps.run("train", processed, params=params)
    first = by_itself(steps, processed, workers=1, epoch_seconds=2, **params)
    events = []
    for line in first.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == "epoch_done":  # the next one begins
            os.killpg(first.pid, signal.SIGTERM)
            break
    text, _ = first.communicate(timeout=120)
    events += [json.loads(line) for line in text.splitlines()]
    assert first.returncode == ExitCode.PREEMPTED, events
    assert "checkpoint_written" in {event["event"] for event in events}
    again = by_itself(steps, processed, workers=1, **params)
    text, _ = again.communicate(timeout=120)
    assert again.returncode == 0, text
    resumed = json.loads(steps.return_file.read_text())
    assert resumed["weights_sha256"] == held.result["weights_sha256"]
    assert '"event": "resumed"' in text


def lose(*_: object) -> None:
    raise PeerLost("gone")


def rates(schedule: str, warmup: int) -> list[float]:
    return [optimization.rate(schedule, step, warmup, steps=8) for step in range(8)]


def test_the_learning_rate_rises_and_falls():
    assert rates("constant", 0) == [1.0] * 8
    assert rates("constant", 2) == [0.5, 1.0] + [1.0] * 6
    assert rates("linear", 4) == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    cosine = rates("cosine", 0)
    assert cosine[0] == 1.0 and cosine[4] == pytest.approx(0.5)
    assert cosine == sorted(cosine, reverse=True) and cosine[-1] < 0.05


def test_each_step_has_the_rate_of_the_schedule(columns):
    training = trainer(columns, schedule="linear")
    go(training, EPOCHS * training.batches)
    first, last = (entry["learning_rate"] for entry in training.history)
    assert first == pytest.approx(PARAMS["learning_rate"] / 2)
    assert last == pytest.approx(0.0)


@pytest.mark.parametrize("limit", [0.0, 0.01])
def test_a_long_gradient_is_shortened(columns, limit):
    training = trainer(columns, max_gradient_norm=limit)
    training.train_batch()
    gradients = [parameter.grad.flatten() for parameter in training.network.parameters()]
    norm = float(torch.cat(gradients).norm())
    assert norm == pytest.approx(0.01, rel=1e-3) if limit else norm > 0.1


def test_in_bfloat16_only_the_forward_pass_is_computed(columns):
    exact, fast = trainer(columns), trainer(columns, precision="bfloat16")
    used = []
    fast.network[0].register_forward_hook(lambda _module, _inputs, outputs: used.append(outputs.dtype))
    for training in (exact, fast):
        go(training, EPOCHS * training.batches)
    assert torch.bfloat16 in used  # in training
    assert used[-1] == torch.float32  # in validation
    assert {parameter.dtype for parameter in fast.network.parameters()} == {torch.float32}
    # CPUs without instructions for bfloat16 round more often: 5 % were seen.
    assert fast.history[-1]["val_loss"] == pytest.approx(exact.history[-1]["val_loss"], rel=0.2)
    assert compute.weights_sha256(fast.network) != compute.weights_sha256(exact.network)


def test_it_tells_how_fast_it_trains(columns):
    training = trainer(columns)
    training.train_batch()
    time.sleep(0.5)
    while training.batch < training.batches:
        training.train_batch()
    assert 0 < training.validate()["samples_per_second"] < len(columns["train_labels"]) / 0.5


class Put(torch.nn.Module):
    """An operation without a deterministic implementation, also on CPU."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = torch.zeros_like(inputs)
        outputs.put_(torch.arange(inputs.numel()), inputs.flatten())
        return outputs


def test_after_a_full_disk_the_checkpoint_at_sigterm_is_tried(columns, tmp_path, monkeypatch):
    write = CheckpointStore._write

    def write_with_room(store: CheckpointStore, name: str, state: dict) -> int:
        if name == "epoch-000001-batch-000000":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(store, name, state)

    def preempt() -> None:
        if (training.epoch, training.batch) == (1, 1):
            raise Preempted

    monkeypatch.setattr(CheckpointStore, "_write", write_with_room)
    training, store = trainer(columns), CheckpointStore(LocalDirectory(tmp_path), PARAMS)
    group = ProcessGroup(Worker(), torch.device("cpu"), Preemption())
    group.raise_if_preempted = preempt
    context = SimpleNamespace(
        preemption=Preemption(),
        settings=SimpleNamespace(checkpoint_freq=1),
        params={"epoch_seconds": 0},
        tracker=NullTracker(),
    )
    with pytest.raises(Preempted):
        train._train(context, training, store, group, EPOCHS)
    progress = json.loads(store.latest()["progress"])
    assert (progress["epoch"], progress["batch"]) == (1, 1)


def test_what_cannot_be_deterministic_is_told_with_the_cure(monkeypatch, tmp_path):
    monkeypatch.setenv(Env.RETURN_FILE, str(tmp_path / "return.json"))
    monkeypatch.setattr(cli, "_run", lambda *_: Put()(torch.ones(3)))
    compute.device("cpu", threads=1)
    assert cli.main([]) == ExitCode.BAD_CONFIG
    told = json.loads((tmp_path / "return.json").read_text())["error"]
    assert told.startswith("put_")
    assert told.endswith("; set the parameter 'deterministic' to false")
    compute.device("cpu", threads=1, deterministic=False)
    assert cli.main([]) == ExitCode.DONE
    compute.device("cpu", threads=1)


def test_a_batch_leaves_no_calls_behind_for_gpus_that_there_are_not(columns):
    training = trainer(columns)
    before = len(torch.cuda._queued_calls)
    go(training, 3)
    assert len(torch.cuda._queued_calls) == before


def test_validating_does_not_disturb(columns):
    weights = []
    for validations in (0, 2):
        training = trainer(columns)
        go(training, 2)
        for _ in range(validations):
            training.validate()
        go(training, 2)
        weights.append(compute.weights_sha256(training.network))
    assert weights[0] == weights[1]


def test_a_batch_as_large_as_the_data_is_one_batch(columns):
    training = trainer(columns, batch_size=5000)
    assert training.batches == 1


SMALL = {"batch_size": 256, "learning_rate": 0.01, "hidden": 8}


@pytest.fixture
def transactions() -> lake.Columns:
    params = completed(fraud.Model(), {"date": "2026-01-31"})
    raw = fraud.Model().load("generator://transactions?rows=2000", params)
    return fraud.Model().preprocess(raw, params)


def test_a_batch_in_parts_is_the_same_batch(transactions):
    params = completed(fraud.Model(), SMALL | {"dropout": 0.0})
    trained = []
    for divisor in (1, 2, 300):
        training = Trainer(fraud.Model(), transactions, params, compute.device("cpu", threads=1), divisor)
        go(training, 2 * training.batches)
        trained.append(training)
    whole, *others = trained
    for other in others:
        for expected, parameter in zip(whole.network.parameters(), other.network.parameters(), strict=True):
            assert torch.allclose(expected, parameter, atol=1e-4)
        assert other.history[-1]["train_loss"] == pytest.approx(whole.history[-1]["train_loss"], abs=1e-4)


def test_another_divisor_goes_on_from_the_same_state(transactions):
    params = completed(fraud.Model(), SMALL | {"dropout": 0.5})
    first = Trainer(fraud.Model(), transactions, params, compute.device("cpu", threads=1))
    go(first, 3)
    second = Trainer(fraud.Model(), transactions, params, compute.device("cpu", threads=1), 2)
    second.restore(first.state())
    go(second, second.batches)
    assert (second.epoch, second.batch) == (1, 3)


def test_fraud_weighs_more(transactions):
    genuine, rare = fraud.Model().class_weights(transactions["train_labels"])
    assert genuine == 1
    assert 4 < rare < 12


def test_no_library_computes_in_more_threads_than_the_model_says():
    threadpool_limits(2)  # as on a machine of two cores
    compute.device("cpu", threads=1)
    # Those of torch and of numpy; scikit-learn's OpenMP takes no part in a training.
    assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
    assert torch.get_num_threads() == 1
