"""Predict new data with a registered model, and write the predictions by date and model version."""

import csv
import hashlib
import io
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from trainyard_contract import Tag

from trainyard_trainer import artifact, compute, lake, log, storage
from trainyard_trainer.context import Context, Result
from trainyard_trainer.errors import BadConfig, storage_error
from trainyard_trainer.feature_table import FeatureTable
from trainyard_trainer.splits import SPLITS
from trainyard_trainer.steps.train import EVALUATION_BATCH, batched_forward

_PREDICTIONS = "predictions.csv"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def run(context: Context) -> Result:
    """Write predictions.csv, then manifest.json; a second call writes the same bytes to the same place."""
    model_uri = context.params["model_uri"] or context.tracker.latest_model()
    version = context.params["model_version"] or re.split("[/@]", model_uri)[-1]
    if not _VERSION.fullmatch(version):
        raise BadConfig(f"parameter 'model_version' is {version!r}; use at most 100 of A-Z a-z 0-9 . _ -")
    columns, dataset = lake.read(context.dataset)
    inputs, ids = _rows(context, columns)
    features = FeatureTable(context.params["features_uri"])
    probabilities = infer(context, model_uri, features.join(inputs, ids))
    predictions = probabilities.argmax(axis=1)
    content = _csv(ids, predictions, probabilities)

    name, date = context.model.name, context.params["date"]
    predictions_of = storage.directory(context.output) / "predictions" / name
    directory = predictions_of / f"date={date}" / f"model_version={version}"
    manifest = {
        "model": name,
        "model_uri": model_uri,
        "model_version": version,
        "date": date,
        "dataset": dataset.uri,
        "features": features.uri,
        "rows": len(ids),
        "files": {_PREDICTIONS: hashlib.sha256(content).hexdigest()},
    }
    try:
        directory.publish(_PREDICTIONS, content)
        directory.publish(lake.MANIFEST, json.dumps(manifest, indent=2, sort_keys=True).encode())
    except OSError as error:
        raise storage_error("writing the predictions", directory, error) from error
    log.event("predicted", path=str(directory), rows=len(ids))
    context.tracker.set_tags({Tag.PREDICTIONS: directory.uri})
    return {
        "output": directory.uri,
        "rows": len(ids),
        "sha256": manifest["files"][_PREDICTIONS],
        "model_uri": model_uri,
        "model_version": version,
        "data_version": dataset.version,
        **{f"class_{label}": int((predictions == label).sum()) for label in range(context.model.classes)},
    }


def _rows(context: Context, columns: lake.Columns) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return inputs and ids of all rows of a raw dataset, or of all splits of a processed one."""
    if "test_inputs" in columns:
        inputs = np.concatenate([columns[f"{split}_inputs"] for split in SPLITS])
        ids = np.concatenate([columns[f"{split}_ids"] for split in SPLITS])
    else:
        context.model.check(columns)
        rows = context.model.clean(columns)
        inputs, ids = rows.inputs, rows.ids
    order = np.argsort(ids, kind="stable")
    return inputs[order], ids[order]


def infer(context: Context, model_uri: str, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the probabilities of a model in MLflow, shape (rows, classes). Raises BadData."""
    device = compute.device(context.settings.device, context.model.threads)
    with tempfile.TemporaryDirectory() as scratch:
        network = artifact.load(context.tracker.download_model(model_uri, Path(scratch))).to(device)
    # A saved model ends with a softmax: its outputs are probabilities.
    outputs = batched_forward(network, torch.from_numpy(inputs).to(device).split(EVALUATION_BATCH))
    probabilities: npt.NDArray[np.float32] = outputs.cpu().numpy()
    return probabilities


def _csv(
    ids: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]
) -> bytes:
    """Write id, predicted class and the probability of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["id", "prediction", *(f"probability_{label}" for label in range(probabilities.shape[1]))]
    )
    shown = np.char.mod("%.6f", probabilities)
    writer.writerows(zip(ids.tolist(), predictions.tolist(), *shown.T.tolist(), strict=True))
    return text.getvalue().encode()
