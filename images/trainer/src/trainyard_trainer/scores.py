"""How good the predictions of a classifier are."""

import numpy as np
import numpy.typing as npt


def confusion(
    labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], classes: int
) -> npt.NDArray[np.int64]:
    """Count the rows by true class (first axis) and predicted class (second axis)."""
    counts = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return counts.reshape(classes, classes)


def f1_by_class(matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the F1 score of each class of a confusion matrix; 0 for a class that never occurs."""
    in_class_or_predicted = matrix.sum(axis=0) + matrix.sum(axis=1)
    return 2 * np.diag(matrix) / np.maximum(in_class_or_predicted, 1)


def f1_macro(matrix: npt.NDArray[np.int64]) -> float:
    """Return the mean of the classes' F1 scores, each class counting alike."""
    return float(f1_by_class(matrix).mean())


def accuracy(matrix: npt.NDArray[np.int64]) -> float:
    """Return the share of rows whose prediction is right."""
    return float(np.diag(matrix).sum() / max(int(matrix.sum()), 1))
