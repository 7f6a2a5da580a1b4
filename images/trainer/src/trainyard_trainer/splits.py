"""Splits of the rows into training, validation and test."""

import numpy as np
import numpy.typing as npt

SPLITS = {"train": 0.7, "validation": 0.15, "test": 0.15}


def stratified(labels: npt.NDArray[np.int64], classes: int, seed: int) -> dict[str, npt.NDArray[np.intp]]:
    """Return the rows of each split, in ascending order; every class is split by the same shares."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    rows: dict[str, list[npt.NDArray[np.intp]]] = {split: [] for split in SPLITS}
    for label in range(classes):
        of_label = shuffled[labels[shuffled] == label]
        cuts = np.rint(np.cumsum(list(SPLITS.values()))[:-1] * len(of_label)).astype(int)
        for split, part in zip(SPLITS, np.split(of_label, cuts), strict=True):
            rows[split].append(part)
    return {split: np.sort(np.concatenate(parts)) for split, parts in rows.items()}
