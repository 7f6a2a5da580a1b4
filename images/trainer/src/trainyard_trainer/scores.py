"""Metrics of the predictions of a classifier."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Labels: TypeAlias = npt.NDArray[np.int64]
Probabilities: TypeAlias = npt.NDArray[np.floating]


def confusion(labels: Labels, predictions: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Count the rows by true class (first axis) and predicted class (second axis)."""
    counts = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return counts.reshape(classes, classes)


def f1_by_class(matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the F1 score of each class of a confusion matrix; 0 for a class that never occurs."""
    in_class_or_predicted = matrix.sum(axis=0) + matrix.sum(axis=1)
    return 2 * np.diag(matrix) / np.maximum(in_class_or_predicted, 1)


def metrics(labels: Labels, probabilities: Probabilities) -> dict[str, float]:
    """Return the metrics of probabilities, shape (rows, classes); more of them for two classes."""
    matrix = confusion(labels, probabilities.argmax(axis=1), probabilities.shape[1])
    result = {
        "accuracy": float(np.diag(matrix).sum() / max(int(matrix.sum()), 1)),
        "f1_macro": float(f1_by_class(matrix).mean()),  # every class has the same weight
    }
    if probabilities.shape[1] == 2:
        from sklearn.metrics import average_precision_score, roc_auc_score  # slow to import

        result["average_precision"] = float(average_precision_score(labels, probabilities[:, 1]))
        result["roc_auc"] = float(roc_auc_score(labels, probabilities[:, 1]))
    return result
