"""Train the model's network, in such a way that it can be cut off anywhere and goes on from there.

Whatever happens in between, the final weights are bit for bit those of a run that was never cut off: the
state that is saved holds the network, the optimizer, the random generators, and the place in the epoch.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from trainyard_trainer import artifact, compute, lake, log, scores
from trainyard_trainer.checkpoint import Store
from trainyard_trainer.context import Context, Result
from trainyard_trainer.errors import BadData, Preempted
from trainyard_trainer.models.base import BaseModel

_EVALUATION_BATCH = 1024  # rows


class Trainer:
    """The network in training; between two calls of its methods its state may be saved."""

    def __init__(
        self, model: BaseModel, columns: lake.Columns, params: Mapping[str, Any], device: torch.device
    ) -> None:
        """Put the data on the device and make the untrained network from the seed."""
        self._classes = model.labels
        self._params = params
        self._device = device
        self._data = {name: torch.from_numpy(values).to(device) for name, values in columns.items()}
        torch.manual_seed(params["seed"])
        self.network = model.network().to(device)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=params["learning_rate"])
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
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if self._device.type == "cuda" else [],
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
        if self._device.type == "cuda" and state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._data["train_labels"]) // int(self._params["batch_size"]))

    def train_batch(self) -> None:
        """Take one step of the optimizer."""
        if self.batch == 0:
            self._order = torch.randperm(len(self._data["train_labels"]))
            self._loss_sum = 0.0
        size = self._params["batch_size"]
        rows = self._order[self.batch * size : (self.batch + 1) * size].to(self._device)
        self.network.train()
        self._optimizer.zero_grad()
        loss = cross_entropy(self.network(self._data["train_inputs"][rows]), self._data["train_labels"][rows])
        loss.backward()
        self._optimizer.step()
        self._loss_sum += float(loss.detach()) * len(rows)
        self.batch += 1

    def validate(self) -> dict[str, Any]:
        """Return the entry of the history for the epoch whose batches are all done; changes nothing."""
        logits = predict(self.network, self._data["validation_inputs"])
        labels = self._data["validation_labels"]
        matrix = scores.confusion(labels.cpu().numpy(), logits.argmax(1).cpu().numpy(), self._classes)
        return {
            "epoch": self.epoch + 1,
            "timestamp_ms": int(time.time() * 1000),
            "train_loss": self._loss_sum / len(self._data["train_labels"]),
            "val_loss": float(cross_entropy(logits, labels)),
            "val_f1_macro": scores.f1_macro(matrix),
        }

    def end_epoch(self, entry: dict[str, Any]) -> None:
        """Count the epoch as done."""
        self.history.append(entry)
        self.epoch += 1
        self.batch = 0


def predict(network: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return the logits, shape (rows, labels), without dropout and without touching random generators."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part) for part in inputs.split(_EVALUATION_BATCH)])


def run(context: Context) -> Result:
    """Train, log the model, and return its URI and the validation scores of the last epoch."""
    params, tracker = context.params, context.tracker
    columns, dataset = lake.read(context.dataset)
    _require(columns, dataset.uri)
    config = {key: params[key] for key, param in context.known_params.items() if param.trains}
    tracker.params(config)
    tracker.tag({"trainyard.data": dataset.uri, "trainyard.data_version": dataset.version})

    device = compute.device(context.settings.device, context.model.threads)
    trainer = Trainer(context.model, columns, params, device)
    store = Store(context.settings.checkpoint_dir, {**config, "data": dataset.sha256})
    resumed_from = _resume(context, trainer, store)
    tracker.tag({"trainyard.resumed_from_epoch": str(resumed_from)})
    _train(context, trainer, store)
    tracker.epochs(trainer.history, patient=True)

    last = trainer.history[-1]
    weights = compute.weights_sha256(trainer.network)
    metrics = {key: last[key] for key in ("train_loss", "val_loss", "val_f1_macro")}
    directory = lake.local_path(context.output)
    commit = context.settings.git_commit
    artifact.save(
        trainer.network,
        directory,
        metrics=metrics,
        config={
            **config,
            "run_key": context.run_key,
            "mlflow_run_id": tracker.run_id,
            "data": dataset.uri,
            "data_sha256": dataset.sha256,
            "git_commit": commit,
            "weights_sha256": weights,
        },
    )
    name = artifact.name(context.model.name, params["date"], commit, params, last["val_f1_macro"])
    model_uri = tracker.model(name, directory, weights, step=trainer.epoch, params=config)
    log.event("model_logged", uri=model_uri, name=name, **metrics)
    return {
        "model_uri": model_uri,
        "model_name": name,
        "output": context.output,
        "data_version": dataset.version,
        "epochs": trainer.epoch,
        "resumed_from_epoch": resumed_from,
        "weights_sha256": weights,
        "device": context.settings.device,
        "f1_macro": last["val_f1_macro"],
        **metrics,
    }


def _require(columns: lake.Columns, uri: str) -> None:
    needed = {f"{split}_{part}" for split in ("train", "validation") for part in ("inputs", "labels")}
    if missing := needed - columns.keys():
        raise BadData(f"dataset {uri} lacks {', '.join(sorted(missing))}; train needs a processed dataset")


def _resume(context: Context, trainer: Trainer, store: Store) -> int:
    """Restore the newest checkpoint if asked to; return the number of whole epochs it had."""
    if not context.resume:
        store.clear()
        return 0
    state = store.latest()
    if state is None:
        return 0
    trainer.restore(state)
    log.event("resumed", epoch=trainer.epoch, batch=trainer.batch, attempt=context.settings.attempt)
    return trainer.epoch


def _train(context: Context, trainer: Trainer, store: Store) -> None:
    """Train the epochs that are left; when preempted, save where we are and let `Preempted` pass on."""
    saved = (trainer.epoch, trainer.batch)

    def save() -> None:
        nonlocal saved
        if saved != (trainer.epoch, trainer.batch):
            store.save(trainer.epoch, trainer.batch, trainer.state())
            saved = (trainer.epoch, trainer.batch)

    try:
        while trainer.epoch < context.params["epochs"]:
            started = time.monotonic()
            _train_epoch(context, trainer, started)
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


def _train_epoch(context: Context, trainer: Trainer, started: float) -> None:
    while trainer.batch < trainer.batches:
        with context.preemption.deferred():
            trainer.train_batch()
    entry = trainer.validate()
    time.sleep(max(0.0, started + context.params["epoch_seconds"] - time.monotonic()))
    with context.preemption.deferred():
        trainer.end_epoch(entry)
