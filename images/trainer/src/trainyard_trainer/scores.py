"""Metrics of the predictions of a classifier, as scikit-learn defines them.

Computed here: to import `sklearn.metrics` takes a CPU-second, as long as a short training.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trainyard_trainer.errors import BadConfig

Labels: TypeAlias = npt.NDArray[np.int64]
Probabilities: TypeAlias = npt.NDArray[np.floating]


def confusion(labels: Labels, predictions: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Count the labels by true class (first axis) and predicted class (second axis)."""
    counts = np.bincount((labels * classes + predictions).ravel(), minlength=classes * classes)
    return counts.reshape(classes, classes)


def f1_by_class(matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the F1 score of each class of a confusion matrix; 0 for a class that never occurs."""
    in_class_or_predicted = matrix.sum(axis=0) + matrix.sum(axis=1)
    return 2 * np.diag(matrix) / np.maximum(in_class_or_predicted, 1)


def metrics(labels: Labels, probabilities: Probabilities) -> dict[str, float]:
    """Return the metrics of probabilities, shape (rows, classes, ...); more of them for two classes.

    Raises BadConfig when a probability is not a finite number, as after a training that diverged.
    """
    if not np.isfinite(probabilities).all():
        raise BadConfig("the network predicts numbers that are not finite; try a lower learning_rate")
    matrix = confusion(labels, probabilities.argmax(axis=1), probabilities.shape[1])
    result = {
        "accuracy": float(np.diag(matrix).sum() / max(int(matrix.sum()), 1)),
        "f1_macro": float(f1_by_class(matrix).mean()),  # every class has the same weight
    }
    if probabilities.shape[1] == 2:
        result |= _over_all_thresholds(labels.ravel(), probabilities[:, 1].ravel())
    return result


def _over_all_thresholds(labels: Labels, scores: npt.NDArray[np.floating]) -> dict[str, float]:
    """Return the areas below the precision-recall curve and the ROC curve; 0 where a class is absent."""
    order = np.argsort(-scores, kind="stable")
    # Rows of equal score are on the same side of every threshold.
    last_of_equals = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    chosen = last_of_equals + 1
    hits = np.cumsum(labels[order])[last_of_equals]
    misses = chosen - hits
    recall = np.concatenate([[0.0], hits / max(int(hits[-1]), 1)])
    fall_out = np.concatenate([[0.0], misses / max(int(misses[-1]), 1)])
    return {
        "average_precision": float(np.sum(np.diff(recall) * hits / chosen)),
        "roc_auc": float(np.sum(np.diff(fall_out) * (recall[1:] + recall[:-1]) / 2)),
    }
