"""Train the model's network, in such a way that it can be cut off anywhere and goes on from there.

Whatever happens in between, the final weights are bit for bit those of a run that was never cut off: the
state that is saved holds the network, the optimizer, the random generators, and the place in the epoch.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy, softmax

from trainyard_trainer import artifact, compute, lake, log, scores
from trainyard_trainer.checkpoint import Store
from trainyard_trainer.context import Context, Result
from trainyard_trainer.distributed import Group, LostPeer, Place, join
from trainyard_trainer.errors import BadData, CodeError, Preempted
from trainyard_trainer.join import Features
from trainyard_trainer.models.base import BaseModel
from trainyard_trainer.preemption import Preemption

_EVALUATION_BATCH = 1024  # rows
_EXAMPLES = 3  # validation rows that are kept with the model


class Trainer:
    """The network in training; between two calls of its methods its state may be saved."""

    def __init__(
        self,
        model: BaseModel,
        columns: lake.Columns,
        params: Mapping[str, Any],
        device: torch.device,
        batch_divisor: int = 1,
        group: Group | None = None,
    ) -> None:
        """Put the data on the device and make the untrained network from the seed."""
        self._metric = model.metric
        self._params = params
        self._batch_divisor = batch_divisor
        self._device = device
        self._group = group or Group(Place(), device, Preemption())
        self._data = {name: torch.from_numpy(values).to(device) for name, values in columns.items()}
        torch.manual_seed(params["seed"])
        self._class_weights = torch.from_numpy(model.class_weights(columns["train_labels"])).to(device)
        self.network = model.network(columns["train_inputs"], params).to(device)
        self._optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=params["learning_rate"],
            weight_decay=params.get("weight_decay", 0.0),
        )
        self.epoch = 0  # whole epochs behind us
        self.batch = 0  # batches of the next epoch behind us
        self.history: list[dict[str, Any]] = []  # one entry a whole epoch, as Tracker.epochs takes it
        self._loss_sum = 0.0  # over the rows of the epoch so far
        self._order = torch.empty(0, dtype=torch.int64)  # of the rows in the epoch that has begun

    def state(self) -> dict[str, Any]:
        """Return all that `restore` needs: tensors, and as JSON what torch 1 refuses to load safely."""
        optimizer = self._optimizer.state_dict()
        progress = {
            "epoch": self.epoch,
            "batch": self.batch,
            "history": self.history,
            "loss_sum": self._loss_sum,
            "optimizer_groups": optimizer["param_groups"],
        }
        return {
            "progress": json.dumps(progress),
            "order": self._order,
            "network": self.network.state_dict(),
            "optimizer": optimizer["state"],
            # A GPU's need not be kept: `_own_random_numbers` sets it from this one for each batch.
            "random": torch.get_rng_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state; on another kind of device the weights from here on differ in rounding."""
        progress = json.loads(state["progress"])
        self.epoch, self.batch = progress["epoch"], progress["batch"]
        self.history = progress["history"]
        self._loss_sum = progress["loss_sum"]
        self._order = state["order"]
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(
            {"state": state["optimizer"], "param_groups": progress["optimizer_groups"]}
        )
        torch.set_rng_state(state["random"])

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._data["train_labels"]) // int(self._params["batch_size"]))

    def train_batch(self) -> None:
        """Take one step of the optimizer.

        The batch is done in parts and their gradients added up, here and over the processes of the group,
        which needs less memory and time and gives the gradient of the whole batch; only dropout draws
        otherwise. A peer that is lost leaves the state as it was before.
        """
        before = torch.get_rng_state()
        if self.batch == 0:
            self._order = torch.randperm(len(self._data["train_labels"]))
            self._loss_sum = 0.0
        size = self._params["batch_size"]
        rows = self._order[self.batch * size : (self.batch + 1) * size].to(self._device)
        weight = self._weight(self._data["train_labels"][rows])
        self.network.train()
        self._optimizer.zero_grad()
        parts = self._group.share(rows).chunk(self._batch_divisor)
        with self._own_random_numbers():
            own = sum(self._backward(part, weight) for part in parts if len(part))
        try:
            (loss,) = self._group.add_up(list(self.network.parameters()), own)
        except LostPeer:
            torch.set_rng_state(before)
            raise
        self._optimizer.step()
        self._loss_sum += loss * len(rows)
        self.batch += 1

    def _backward(self, rows: torch.Tensor, weight: torch.Tensor) -> float:
        """Add to the gradients, and return, what the rows add to the loss of a batch of that weight."""
        logits = self.network(self._data["train_inputs"][rows])
        loss = self._loss(logits, self._data["train_labels"][rows]) / weight
        loss.backward()
        return float(loss.detach())

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """Draw other numbers than the other processes in the block, and the same again after it.

        So the order of the rows is the same for any number of processes.
        """
        seed = int(torch.randint(2**62, ()))
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(seed + self._group.place.rank)
            yield

    def validate(self) -> dict[str, Any]:
        """Return the entry of the history for the epoch whose batches are all done; changes nothing."""
        logits = answers(self.network, self._data["validation_inputs"])
        labels = self._data["validation_labels"]
        metrics = scores.metrics(labels.cpu().numpy(), softmax(logits, dim=1).cpu().numpy())
        return {
            "epoch": self.epoch + 1,
            "timestamp_ms": int(time.time() * 1000),
            "train_loss": self._loss_sum / len(self._data["train_labels"]),
            "val_loss": float(self._loss(logits, labels) / self._weight(labels)),
            f"val_{self._metric}": metrics[self._metric],
        }

    def examples(self) -> torch.Tensor:
        """Return a few validation inputs, without missing values, which JSON has no number for."""
        inputs = self._data["validation_inputs"]
        return inputs[torch.isfinite(inputs.flatten(1)).all(1)][:_EXAMPLES]

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, labels, weight=self._class_weights, reduction="sum")

    def _weight(self, labels: torch.Tensor) -> torch.Tensor:
        return self._class_weights[labels].sum()

    def end_epoch(self, entry: dict[str, Any]) -> None:
        """Count the epoch as done."""
        self.history.append(entry)
        self.epoch += 1
        self.batch = 0


def answers(network: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return what the network says of all inputs, without dropout and without touching random generators."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part) for part in inputs.split(_EVALUATION_BATCH)])


def run(context: Context) -> Result:
    """Train, and return the validation scores of the last epoch; after all epochs also log the model."""
    params, tracker = context.params, context.tracker
    columns, dataset = lake.read(context.dataset)
    _require(columns, dataset.uri)
    features = Features(params["features_uri"])
    columns = features.join_splits(columns)
    config = {key: params[key] for key, param in context.known_params.items() if param.trains}
    tracker.params(config)
    tracker.tag({"trainyard.data": dataset.uri, "trainyard.data_version": dataset.version})
    tracker.tag(context.place.tags())

    device = compute.device(context.settings.device, context.model.threads, context.place.local_rank)
    identity = {**config, "data": dataset.sha256, "features": features.sha256}
    store = Store(context.settings.checkpoint_dir, identity)
    last_epoch = min(params["stop_after"] or params["epochs"], params["epochs"])
    with join(context.place, device, context.preemption) as group:
        trainer = Trainer(context.model, columns, params, device, context.settings.batch_divisor, group)
        resumed_from = _resume(context, trainer, store, group)
        tracker.tag({"trainyard.resumed_from_epoch": str(resumed_from)})
        _train(context, trainer, store, group, last_epoch)
        weights = _agreed_weights(trainer, group)
    if not group.place.leads:
        return {"rank": group.place.rank, "epochs": last_epoch, "weights_sha256": weights}
    tracker.epochs(trainer.history, patient=True)

    # An attempt that was repeated after a longer one finds more epochs there than it was asked for.
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
    """Write the trained model to --output, log it, and return what names it."""
    params, commit = context.params, context.settings.git_commit
    directory = lake.local_path(context.output)
    artifact.save(
        trainer.network,
        directory,
        example=trainer.examples(),
        metrics=metrics,
        config={
            **config,
            **data,
            "run_key": context.run_key,
            "mlflow_run_id": context.tracker.run_id,
            "git_commit": commit,
            "weights_sha256": weights,
        },
    )
    metric = context.model.metric
    score = f"{metric}-{metrics[f'val_{metric}']:.4f}"
    name = artifact.name(context.model.name, params["date"], commit, params, score)
    model_uri = context.tracker.model(name, directory, weights, step=trainer.epoch, params=config)
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


def _resume(context: Context, trainer: Trainer, store: Store, group: Group) -> int:
    """Restore the newest checkpoint if asked to, rank 0's everywhere; return the whole epochs it had."""
    if group.place.leads and not context.resume:
        store.clear()
    state = group.from_leader(store.latest() if group.place.leads else None)
    if state is None:
        return 0
    trainer.restore(state)
    log.event("resumed", epoch=trainer.epoch, batch=trainer.batch, attempt=context.settings.attempt)
    return trainer.epoch


def _agreed_weights(trainer: Trainer, group: Group) -> str:
    """Return the SHA-256 of the weights, which all processes have alike, or something is very wrong."""
    own = compute.weights_sha256(trainer.network)
    leaders = group.from_leader({"weights": own})
    if not leaders or leaders["weights"] != own:
        raise CodeError(f"rank {group.place.rank} trained other weights than rank 0")
    return own


def _train(context: Context, trainer: Trainer, store: Store, group: Group, last_epoch: int) -> None:
    """Train the epochs that are left up to the last one; when preempted, save and let `Preempted` pass."""
    saved = (trainer.epoch, trainer.batch)

    def save() -> None:
        nonlocal saved
        if group.place.leads and saved != (trainer.epoch, trainer.batch):
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
            context.tracker.epochs(trainer.history, patient=False)
        with context.preemption.deferred():
            save()
    except Preempted:
        with context.preemption.deferred():
            save()
        log.event("preempted", epoch=trainer.epoch, batch=trainer.batch)
        raise


def _train_epoch(context: Context, trainer: Trainer, group: Group, started: float) -> None:
    while trainer.batch < trainer.batches:
        with context.preemption.deferred():
            trainer.train_batch()
        group.stop_together()
    entry = trainer.validate()
    group.pause(started + context.params["epoch_seconds"] - time.monotonic())
    group.stop_together()
    with context.preemption.deferred():
        trainer.end_epoch(entry)
