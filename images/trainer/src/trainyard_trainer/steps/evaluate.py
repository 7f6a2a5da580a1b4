"""Score a trained model on the test split that it never saw."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from trainyard_trainer import artifact, compute, lake, log, scores
from trainyard_trainer.context import Context, Result
from trainyard_trainer.errors import BadData, storage_error
from trainyard_trainer.join import Features
from trainyard_trainer.steps.train import answers

_REPORT = "evaluation.json"


def run(context: Context) -> Result:
    """Score the model that `model_uri` names, else this run key's; the report goes to MLflow and --output."""
    columns, dataset = lake.read(context.dataset)
    if missing := {"test_inputs", "test_labels"} - columns.keys():
        raise BadData(
            f"dataset {dataset.uri} lacks {', '.join(sorted(missing))}; evaluate needs a processed dataset"
        )
    columns = Features(context.params["features_uri"]).join_splits(columns)
    model_uri = context.params["model_uri"] or context.tracker.newest_model()
    device = compute.device(context.settings.device, context.model.threads)
    with tempfile.TemporaryDirectory() as scratch:
        network = artifact.load(context.tracker.download(model_uri, Path(scratch))).to(device)
    labels = columns["test_labels"]
    probabilities = answers(network, torch.from_numpy(columns["test_inputs"]).to(device)).cpu().numpy()
    metrics: dict[str, Any] = scores.metrics(labels, probabilities)
    matrix = scores.confusion(labels, probabilities.argmax(axis=1), context.model.labels)
    log.event("evaluated", model_uri=model_uri, rows=len(labels), **metrics)

    report = lake.local_path(context.output) / _REPORT
    content = {
        **metrics,
        "model_uri": model_uri,
        "dataset": dataset.uri,
        "f1_by_class": scores.f1_by_class(matrix).tolist(),
        "confusion": matrix.tolist(),
    }
    try:
        lake.publish_file(report, json.dumps(content, indent=2).encode())
    except OSError as error:
        raise storage_error("writing the report", report, error) from error
    context.tracker.artifact(report, "evaluation")
    model_id = model_uri.removeprefix("models:/") if model_uri.startswith("models:/m-") else None
    context.tracker.score(metrics, step=0, model_id=model_id)
    return {
        **metrics,
        "score": metrics[context.model.metric],
        "metric": context.model.metric,
        "model_uri": model_uri,
        "data_version": dataset.version,
        "git_commit": context.settings.git_commit,
        "rows": len(labels),
        "output": lake.file_uri(report),
    }
