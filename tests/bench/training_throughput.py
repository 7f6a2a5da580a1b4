"""How fast the trainer trains beside a bare PyTorch loop with the same network, rows and batches:

    ./scripts/_python --dev python tests/bench/training_throughput.py [--model digits] [--device cuda]

It runs in the image of the trainer. Both train and validate the same epochs in turn, round by round. The
trainer also writes checkpoints, logs its metrics to MLflow (in files) and reacts to SIGTERM. The last line
has the median of the ratios.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCES = ("images/trainer/src", "library")
DATA = {
    "digits": "sklearn://digits",
    "residual": "sklearn://digits",
    "characters": "pydoc://topics",
    "fraud": "generator://transactions?rows=20000",
    "churn": "generator://customers?rows=20000",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(DATA), default="digits")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch-size", type=int, default=64, help="rows per step")
    parser.add_argument("--epochs", type=int, default=10, help="of each round")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    if os.environ.get("IN_IMAGE") or arguments.device == "cuda":
        sys.path[:0] = [str(ROOT / each) for each in SOURCES]
        measure(arguments)
    else:
        run_in_image(sys.argv[1:])


def run_in_image(arguments: list[str]) -> None:
    """Run this file in the image of the trainer."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from rich.console import Console
    from trainyard_cli import host, images
    from trainyard_cli.stages import Stages

    with Stages(Console())("image") as stage:
        host.ensure_docker(stage)
        image = images.ensure_built(stage, "trainer")
    program = ["python3", f"/src/{Path(__file__).relative_to(ROOT)}", *arguments]
    environment = ["-e", "IN_IMAGE=1", "-e", "OMP_NUM_THREADS=1", "-e", "MLFLOW_ALLOW_FILE_STORE=true"]
    container = ["--rm", *environment, "-v", f"{ROOT}:/src:ro", image]
    subprocess.run([host.docker(), "run", *container, *program], check=True)


def measure(arguments: argparse.Namespace) -> None:
    """Print the samples per second of both, round by round."""
    from trainyard_trainer import compute, models, params

    model = models.load(arguments.model)
    given = {"batch_size": arguments.batch_size, "epochs": arguments.epochs, "date": "2026-01-31"}
    completed = params.complete(given, {**params.COMMON, **model.params})
    columns = model.preprocess(model.load(DATA[arguments.model], completed), completed)
    device = compute.device(arguments.device, model.threads)
    samples = len(columns["train_labels"]) * arguments.epochs
    print(f"{arguments.model}, {device}, torch {version()}: {samples} samples in each round")
    ratios = []
    for number in range(arguments.rounds + 1):
        bare = samples / seconds(bare_loop, model, columns, completed, device)
        ours = samples / seconds(trainer_loop, model, columns, completed, device)
        if number:  # the first round warms up
            ratios.append(ours / bare)
            print(f"round {number}: bare {bare:.0f}, trainer {ours:.0f} samples/s, ratio {ratios[-1]:.3f}")
    print(f"median ratio {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def version() -> str:
    import torch

    return str(torch.__version__)


def seconds(train: Any, *arguments: Any) -> float:
    started = time.perf_counter()
    train(*arguments)
    return time.perf_counter() - started


def bare_loop(model: Any, columns: Any, params: dict[str, Any], device: Any) -> None:
    """What a tutorial has: batches of shuffled rows, Adam, a validation at the end of each epoch."""
    import torch
    from torch.nn.functional import cross_entropy, softmax
    from trainyard_trainer import scores

    torch.manual_seed(params["seed"])
    data = {name: torch.from_numpy(values).to(device) for name, values in columns.items()}
    inputs, labels = data["train_inputs"], data["train_labels"]
    weights = torch.from_numpy(model.class_weights(columns["train_labels"])).to(device)
    network = model.network(columns["train_inputs"], params).to(device)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=params["learning_rate"], weight_decay=params.get("weight_decay", 0.0)
    )
    for _ in range(params["epochs"]):
        network.train()
        total = torch.zeros((), device=device)
        for rows in torch.randperm(len(labels)).to(device).split(params["batch_size"]):
            optimizer.zero_grad()
            loss = cross_entropy(network(inputs[rows]), labels[rows], weight=weights)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        network.eval()
        with torch.no_grad():
            logits = network(data["validation_inputs"])
        float(total), float(cross_entropy(logits, data["validation_labels"], weight=weights))
        scores.metrics(columns["validation_labels"], softmax(logits, dim=1).cpu().numpy())


def trainer_loop(model: Any, columns: Any, params: dict[str, Any], device: Any) -> None:
    """The trainer's own, with everything that a step `train` does between the first epoch and the last."""
    from trainyard_trainer.checkpoint import CheckpointStore
    from trainyard_trainer.distributed import Worker, process_group
    from trainyard_trainer.preemption import Preemption
    from trainyard_trainer.settings import Settings
    from trainyard_trainer.steps import train
    from trainyard_trainer.storage import LocalDirectory
    from trainyard_trainer.tracking import Tracker

    with tempfile.TemporaryDirectory() as directory:
        os.environ["MLFLOW_TRACKING_URI"] = (Path(directory) / "mlruns").as_uri()
        settings, preemption = Settings.from_environment(), Preemption()
        tracker = Tracker(settings, "bench")
        context: Any = SimpleNamespace(
            settings=settings, preemption=preemption, params=params, tracker=tracker
        )
        with process_group(Worker(), device, preemption) as group:
            trainer = train.Trainer(model, columns, params, device, group=group)
            store = CheckpointStore(LocalDirectory(Path(directory) / "checkpoints"), {})
            train._train(context, trainer, store, group, params["epochs"])
        tracker.log_epochs(trainer.history)
        tracker.end()


if __name__ == "__main__":
    main()
