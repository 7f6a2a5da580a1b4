"""Train the model's network so that it can be interrupted at any time and resumed.

The final weights are bit for bit those of a training that was never interrupted: a checkpoint holds the
network, the optimizer, the state of the random generators and the position in the epoch.
"""

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, softmax
from trainyard_contract import Tag

from trainyard_trainer import artifact, compute, inputs, lake, log, scores, storage
from trainyard_trainer.checkpoint import CheckpointStore
from trainyard_trainer.context import Context, Result
from trainyard_trainer.distributed import PeerLost, ProcessGroup, Worker, peer_errors, process_group
from trainyard_trainer.errors import BadConfig, BadData, CodeError, Preempted, Temporary
from trainyard_trainer.feature_table import FeatureTable
from trainyard_trainer.models.base import BaseModel
from trainyard_trainer.optimization import Optimization
from trainyard_trainer.preemption import Preemption

EVALUATION_BATCH = 1024  # rows
_EXAMPLES = 3  # validation rows that are saved with the model


class Trainer:
    """The network in training; its state can be saved between any two calls of its methods."""

    def __init__(
        self,
        model: BaseModel,
        columns: lake.Columns,
        params: Mapping[str, Any],
        device: torch.device,
        batch_divisor: int = 1,
        group: ProcessGroup | None = None,
    ) -> None:
        """Copy the data to the device and initialize the network from the seed."""
        self._metric = model.metric
        self._params = params
        self._parts = batch_divisor * params["accumulate"]
        self._precision = getattr(torch, params["precision"])
        self._device = device
        self._group = group or ProcessGroup(Worker(), device, Preemption())
        splits = ("train", "validation")
        self._labels = {split: torch.from_numpy(columns[f"{split}_labels"]).to(device) for split in splits}
        self._inputs, self._validation = (
            inputs.of_column(columns[f"{split}_inputs"], device, params["workers"]) for split in splits
        )
        torch.manual_seed(params["seed"])
        self._class_weights = torch.from_numpy(model.class_weights(columns["train_labels"])).to(device)
        self.network = model.network(columns["train_inputs"], params).to(device)
        self._replica = self._group.replicate(self.network)
        steps = self.batches * params["epochs"]
        self._optimization = Optimization(self.network, params, steps)
        self.epoch = 0  # completed epochs
        self.batch = 0  # completed batches of the next epoch
        self.history: list[dict[str, Any]] = []  # one entry for each completed epoch, for Tracker.log_epochs
        # Over the rows of the current epoch so far. On the device, which is not waited for with each batch.
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._order = torch.empty(0, dtype=torch.int64, device=device)  # of the rows in the current epoch
        self._own_loss = torch.zeros_like(self._loss_sum)  # this process's part of that of the last batch
        self._began: tuple[float, int] | None = None  # in this epoch: when, and with which batch
        self._follows = (-1, -1)  # epoch and batch whose inputs come next; none at first

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs: tensors, and as JSON what is no tensor."""
        with suppress(PeerLost):
            self._end_batch()
        tensors, groups = self._optimization.state()
        progress = {
            "epoch": self.epoch,
            "batch": self.batch,
            "history": self.history,
            "loss_sum": float(self._loss_sum),
            "optimizer_groups": groups,
        }
        return {
            "progress": json.dumps(progress),
            "order": self._order.cpu(),
            "network": self.network.state_dict(),
            "optimizer": tensors,
            # A GPU's generator is not saved: `_own_random_numbers` seeds it from this one for each batch.
            "random": torch.get_rng_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state; on another kind of device later weights differ by rounding errors."""
        progress = json.loads(state["progress"])
        self.epoch, self.batch = progress["epoch"], progress["batch"]
        self.history = progress["history"]
        self._loss_sum.fill_(progress["loss_sum"])
        self._order = state["order"].to(self._device)
        self.network.load_state_dict(state["network"])
        # A checkpoint has no empty dictionaries, and all its keys are strings.
        optimizer = {int(number): values for number, values in state.get("optimizer", {}).items()}
        step = self.epoch * self.batches + self.batch
        self._optimization.restore(optimizer, progress["optimizer_groups"], step)
        torch.set_rng_state(state["random"])

    @property
    def batches(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self._labels["train"]) // int(self._params["batch_size"]))

    def train_batch(self) -> None:
        """Take one step of the optimizer. The device may still compute when it returns.

        The gradients of the parts of the batch are accumulated, and summed over the processes of the group.
        This needs less memory and time, and gives the gradient of the whole batch, except that dropout draws
        differently and BatchNorm sees a part. When a peer is lost, the state is the one before the call.
        """
        self._end_batch()
        self._began = self._began or (time.monotonic(), self.batch)
        with self._group.undone_without_peer(self.network):
            if self.batch == 0:
                self._order = torch.randperm(len(self._labels["train"])).to(self._device)
                self._loss_sum.zero_()
            self._follow()
            rows = self._rows_of(self.batch)
            self.network.train()
            self._optimization.zero_grad()
            with self._own_random_numbers():
                self._own_loss = self._accumulate(rows) * len(rows)
            self._group.begin_sum(self._own_loss)
            if self.batch + 1 == self.batches:
                self._group.share_buffers(self.network)
        self._optimization.step()
        self.batch += 1
        self._follows = (self.epoch, self.batch)

    def _follow(self) -> None:
        """Tell which rows come next where that is news: in a new epoch, after a resume or a lost peer."""
        if self._follows != (self.epoch, self.batch):
            left = (self._parts_of(self._rows_of(batch)) for batch in range(self.batch, self.batches))
            self._inputs.follow(part for parts in left for part in parts)
        self._follows = (-1, -1)  # until this batch has ended

    def _rows_of(self, batch: int) -> torch.Tensor:
        """Return the rows of a batch of this epoch, of all processes."""
        size = self._params["batch_size"]
        return self._order[batch * size : (batch + 1) * size]

    def _parts_of(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return this process's share of a batch, in the parts in which it is computed.

        A process without rows takes part in the exchange with one that does not count.
        """
        share = self._group.shard(rows)
        return share.chunk(self._parts) if len(share) else (rows[:1],)

    def _end_batch(self) -> None:
        """Add the loss of the last batch, which the processes exchange while the device goes on."""
        try:
            total = self._group.end_sum()
        except PeerLost:
            # The others' parts are lost: its own stands for each of them.
            self._loss_sum += self._own_loss * self._group.worker.world_size
            raise
        if total is not None:
            self._loss_sum += total

    def _accumulate(self, rows: torch.Tensor) -> torch.Tensor:
        """Compute the gradients of a batch, and return this process's part of its loss, on the device."""
        weight = self._weight(self._labels["train"][rows])
        *parts, last = self._parts_of(rows)
        counts = len(self._group.shard(rows)) > 0
        own = torch.zeros_like(self._loss_sum)
        with self._group.alone(self._replica):
            for part in parts:
                own += self._backward(part, weight)
        return own + self._backward(last, weight if counts else torch.full_like(weight, torch.inf))

    def _backward(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Accumulate the gradients of the rows, and return their part of the loss of the whole batch."""
        reduced = self._precision != torch.float32  # the weights and the loss stay in float32
        with torch.autocast(self._device.type, self._precision, enabled=reduced):
            logits = self._replica(self._inputs.of(rows))
        loss = self._loss(logits.float(), self._labels["train"][rows]) / weight
        with peer_errors(in_network=True):
            (loss * self._group.worker.world_size).backward()  # the mean over the processes is then the sum
        return loss.detach().double()

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """Seed the random generators for this process and batch, and restore them after the block.

        So the order of the rows does not depend on the number of processes.
        """
        seed = int(torch.randint(2**62, ())) + self._group.worker.rank
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            compute.seed(seed, self._device)
            yield

    def validate(self) -> dict[str, Any]:
        """Return the history entry of the epoch whose batches are completed; change no state."""
        self._end_batch()
        train_loss = float(self._loss_sum) / len(self._labels["train"])  # waits for the device
        pace = self._samples_per_second()
        logits = batched_forward(self.network, self._validation.parts(EVALUATION_BATCH))
        labels = self._labels["validation"]
        metrics = scores.metrics(labels.cpu().numpy(), softmax(logits, dim=1).cpu().numpy())
        return {
            "epoch": self.epoch + 1,
            "timestamp_ms": int(time.time() * 1000),
            "samples_per_second": pace,
            "data_seconds": self._inputs.waited,
            "learning_rate": self._optimization.learning_rate,
            "train_loss": train_loss,
            "val_loss": float(self._loss(logits, labels) / self._weight(labels)),
            f"val_{self._metric}": metrics[self._metric],
        }

    def _samples_per_second(self) -> float:
        """Return how many rows this epoch has trained in a second, as far as this process trained it."""
        began, batch = self._began or (time.monotonic(), self.batch)
        rows = len(self._labels["train"]) - batch * int(self._params["batch_size"])
        return max(0, rows) / max(time.monotonic() - began, 1e-9)

    def examples(self) -> torch.Tensor:
        """Return a few validation inputs without missing values, for which JSON has no number."""
        for part in self._validation.parts(EVALUATION_BATCH):
            found = part[torch.isfinite(part.flatten(1)).all(1)]
            if len(found):
                break
        return found[:_EXAMPLES]

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # Flat: over places CUDA has no deterministic operation.
        flat = logits.movedim(1, -1).flatten(0, -2)
        return cross_entropy(flat, labels.flatten(), weight=self._class_weights, reduction="sum")

    def _weight(self, labels: torch.Tensor) -> torch.Tensor:
        return self._class_weights[labels].sum()

    def end_epoch(self, entry: dict[str, Any]) -> None:
        """Add the epoch to the history and start the next."""
        self.history.append(entry)
        self.epoch += 1
        self.batch = 0
        self._began = None
        self._inputs.waited = 0.0


def batched_forward(network: torch.nn.Module, parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the network's outputs for all parts of the inputs, without dropout and random generators."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part) for part in parts])


def run(context: Context) -> Result:
    """Train, and return the validation scores of the last epoch; after all epochs, log the model."""
    with tempfile.TemporaryDirectory() as scratch:
        return _run(context, Path(scratch))


def _run(context: Context, scratch: Path) -> Result:
    params, tracker = context.params, context.tracker
    if params["workers"] and params["features_uri"]:
        raise BadConfig(
            "parameter 'workers' reads inputs from their files, in which features are not; set it to 0"
        )
    mapped_in = scratch if params["workers"] else None
    columns, dataset = lake.read(context.dataset, splits=("train", "validation"), mapped_in=mapped_in)
    _require(columns, dataset.uri)
    features = FeatureTable(params["features_uri"])
    columns = features.join_splits(columns)
    config = {key: params[key] for key, param in context.known_params.items() if param.is_hyperparameter}
    tracker.log_params(config)
    tracker.set_tags({Tag.DATA: dataset.uri, Tag.DATA_VERSION: dataset.version})
    tracker.set_tags({**context.worker.tags(), **context.settings.made_of})

    device = compute.device(
        context.settings.device,
        context.model.threads,
        context.worker.local_rank,
        deterministic=params["deterministic"],
    )
    identity = {**config, "data": dataset.sha256, "features": features.sha256}
    defaults = {key: context.known_params[key].default for key in config}
    store = CheckpointStore(context.settings.checkpoint_dir, identity, defaults)
    last_epoch = min(params["stop_after"] or params["epochs"], params["epochs"])
    with process_group(context.worker, device, context.preemption) as group:
        trainer = Trainer(context.model, columns, params, device, context.settings.batch_divisor, group)
        resumed_from = _resume(context, trainer, store, group)
        tracker.set_tags({Tag.RESUMED_FROM_EPOCH: str(resumed_from)})
        _train(context, trainer, store, group, last_epoch)
        weights = _require_equal_weights(trainer, group)
    if not group.worker.is_leader:
        return {"rank": group.worker.rank, "epochs": last_epoch, "weights_sha256": weights}
    tracker.log_epochs(trainer.history)

    # A checkpoint of a longer training has more epochs than this call asks for.
    reached = trainer.history[last_epoch - 1]
    metric = f"val_{context.model.metric}"
    metrics: dict[str, Any] = {key: reached[key] for key in ("train_loss", "val_loss", metric)}
    result = {
        "data_version": dataset.version,
        "epochs": last_epoch,
        "resumed_from_epoch": resumed_from,
        "device": context.settings.device,
        "metric": context.model.metric,
        "score": reached[metric],
        **metrics,
    }
    if last_epoch < params["epochs"]:
        log.event("stopped_early", epoch=last_epoch, epochs=params["epochs"], **metrics)
        return result
    recorded = {"data": dataset.uri, "data_sha256": dataset.sha256, "features": features.uri}
    return result | _publish(context, trainer, config, recorded, metrics, weights)


def _publish(
    context: Context,
    trainer: Trainer,
    config: Mapping[str, Any],
    data: Mapping[str, str],
    metrics: Mapping[str, Any],
    weights: str,
) -> Result:
    """Write the trained model to --output, log it to MLflow, and return its URI, name and weights."""
    params, commit = context.params, context.settings.git_commit
    metric = context.model.metric
    score = f"{metric}-{metrics[f'val_{metric}']:.4f}"
    name = artifact.name(context.model.name, params["date"], commit, params, score)
    recorded = {
        "run_key": context.run_key,
        "mlflow_run_id": context.tracker.run_id,
        "git_commit": commit,
        "weights_sha256": weights,
    }
    with storage.working_copy(context.output) as directory:
        artifact.save(
            trainer.network,
            directory,
            example=trainer.examples(),
            metrics=metrics,
            config={**config, **data, **recorded},
        )
        model_uri = context.tracker.log_model(name, directory, weights, step=trainer.epoch, params=config)
    log.event("model_logged", uri=model_uri, name=name, **metrics)
    return {
        "model_uri": model_uri,
        "model_name": name,
        "output": context.output,
        "weights_sha256": weights,
    }


def _require(columns: lake.Columns, uri: str) -> None:
    needed = {f"{split}_{part}" for split in ("train", "validation") for part in ("inputs", "labels")}
    if missing := needed - columns.keys():
        raise BadData(f"dataset {uri} lacks {', '.join(sorted(missing))}; train needs a processed dataset")


def _resume(context: Context, trainer: Trainer, store: CheckpointStore, group: ProcessGroup) -> int:
    """Restore rank 0's newest checkpoint with --resume-if-exists; return the epochs completed in it."""
    if group.worker.is_leader and not context.resume:
        store.clear()
    with context.preemption.deferred():  # torch's C++ code would turn Preempted into an error of the file
        newest = store.latest() if group.worker.is_leader else None
    state = group.broadcast(newest)
    if state is None:
        return 0
    trainer.restore(state)
    log.event("resumed", epoch=trainer.epoch, batch=trainer.batch, attempt=context.settings.attempt)
    return trainer.epoch


def _require_equal_weights(trainer: Trainer, group: ProcessGroup) -> str:
    """Return the SHA-256 of the weights. Raises CodeError when they differ from those of rank 0."""
    own = compute.weights_sha256(trainer.network)
    leaders = group.broadcast({"weights": own})
    if not leaders or leaders["weights"] != own:
        raise CodeError(f"rank {group.worker.rank} trained other weights than rank 0")
    return own


def _train(
    context: Context, trainer: Trainer, store: CheckpointStore, group: ProcessGroup, last_epoch: int
) -> None:
    """Train the remaining epochs up to the last one; when preempted, write a checkpoint and re-raise."""
    saved = (trainer.epoch, trainer.batch)

    def save() -> None:
        nonlocal saved
        if group.worker.is_leader and saved != (trainer.epoch, trainer.batch):
            store.save(trainer.epoch, trainer.batch, trainer.state())
            saved = (trainer.epoch, trainer.batch)

    try:
        while trainer.epoch < last_epoch:
            started = time.monotonic()
            _train_epoch(context, trainer, group, started)
            with context.preemption.deferred():
                if trainer.epoch % context.settings.checkpoint_freq == 0:
                    save()
            entry = trainer.history[-1]
            shown = {key: round(value, 4) for key, value in entry.items() if key != "timestamp_ms"}
            log.event("epoch_done", **shown, seconds=round(time.monotonic() - started, 3))
            context.tracker.log_epochs_meanwhile(trainer.history)
        with context.preemption.deferred():
            save()
            store.flush()
    except Preempted:
        with context.preemption.deferred():
            try:
                store.flush()
            except Temporary as error:  # the disk may have room by now
                log.warning("checkpoint_failed", reason=str(error))
                saved = (-1, -1)
            save()
            store.flush()
        log.event("preempted", epoch=trainer.epoch, batch=trainer.batch)
        raise


def _train_epoch(context: Context, trainer: Trainer, group: ProcessGroup, started: float) -> None:
    while trainer.batch < trainer.batches:
        with context.preemption.deferred():
            trainer.train_batch()
        group.raise_if_preempted()
    entry = trainer.validate()
    group.sleep(started + context.params["epoch_seconds"] - time.monotonic())
    group.raise_if_preempted()
    with context.preemption.deferred():
        trainer.end_epoch(entry)
