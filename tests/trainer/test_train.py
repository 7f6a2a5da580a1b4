"""The state of a training, saved and restored between any two batches."""

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from trainyard_trainer import compute, lake
from trainyard_trainer.checkpoint import CheckpointStore
from trainyard_trainer.models import fraud
from trainyard_trainer.models.digits import Model
from trainyard_trainer.steps.train import Trainer
from trainyard_trainer.storage import LocalDirectory

PARAMS = {"seed": 3, "batch_size": 150, "learning_rate": 0.01}
EPOCHS = 2


@pytest.fixture
def columns(processed: str) -> lake.Columns:
    return lake.read(processed)[0]


def trainer(columns: lake.Columns) -> Trainer:
    return Trainer(Model(), columns, PARAMS, compute.device("cpu", threads=1))


def go(training: Trainer, batches: int) -> None:
    for _ in range(batches):
        training.train_batch()
        if training.batch == training.batches:
            training.end_epoch(training.validate() | {"timestamp_ms": 0})


def test_cut_at_every_batch_it_ends_alike(columns, tmp_path):
    whole = trainer(columns)
    total = EPOCHS * whole.batches
    go(whole, total)
    for cut in range(total + 1):
        first = trainer(columns)
        go(first, cut)
        store = CheckpointStore(LocalDirectory(tmp_path / str(cut)), PARAMS)
        store.save(first.epoch, first.batch, first.state())
        torch.manual_seed(99)  # what another process would have
        second = trainer(columns)
        second.restore(store.latest())
        go(second, total - cut)
        assert compute.weights_sha256(second.network) == compute.weights_sha256(whole.network)
        assert second.history == whole.history


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
    training = Trainer(Model(), columns, PARAMS | {"batch_size": 5000}, compute.device("cpu", threads=1))
    assert training.batches == 1


@pytest.fixture
def transactions() -> lake.Columns:
    raw = fraud.Model().load("generator://transactions?rows=2000", {"date": "2026-01-31"})
    return fraud.Model().preprocess(raw, {"split_seed": 0})


def test_a_batch_in_parts_is_the_same_batch(transactions):
    params = {"seed": 0, "batch_size": 256, "learning_rate": 0.01, "hidden": 8, "dropout": 0.0}
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
    params = {"seed": 0, "batch_size": 256, "learning_rate": 0.01, "hidden": 8, "dropout": 0.5}
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
