"""Splits of the rows into training, validation and test: at random, by time or by group."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainyard_trainer.errors import BadConfig, BadData

SPLITS = {"train": 0.7, "validation": 0.15, "test": 0.15}

SplitRows = dict[str, npt.NDArray[np.intp]]
"""The rows of each split, in ascending order."""


@dataclass(frozen=True)
class Split:
    """The rows of each split, by which column they were split, and the time or group of each row in it."""

    kind: str  # random, time or group
    rows: SplitRows
    column: str = ""
    keys: npt.NDArray[Any] | None = None

    def __str__(self) -> str:
        return f"{self.kind} ({self.column})" if self.column else self.kind

    def check_classes(self, labels: npt.NDArray[np.int64], classes: int) -> None:
        """Check that each split has rows of each class; in sequences classes may be rare. Raises BadData."""
        for name, rows in self.rows.items():
            counts = np.bincount(labels[rows].ravel(), minlength=classes)
            if not (counts.any() if labels.ndim > 1 else counts.all()):
                lack = f"row of class {counts.argmin()}" if len(rows) else "rows"
                raise BadData(f"rule split: {name} has no {lack} in the split {self}; {_CURES[self.kind]}")


_CURES = {
    "random": "deliver more rows of each class",
    "time": "deliver more rows or more moments of time, or set the parameter split to random",
    "group": "deliver more groups, or set another split_seed, or the parameter split to random",
}


def by_key(kind: str, column: str, keys: npt.NDArray[Any], seed: int) -> Split:
    """Split by the time or group of each row. Raises BadData where a row has none."""
    is_text = keys.dtype.kind == "U"
    if kind == "time" and is_text:
        raise BadConfig(f"the parameter split is time, but column {column!r} holds text; name another one")
    missing = np.flatnonzero(keys == "" if is_text else np.isnan(keys))
    if len(missing):
        raise BadData(f"rule split: column {column!r} has no {kind} in {len(missing)} rows; add it to them")
    return Split(kind, by_time(keys) if kind == "time" else by_group(keys, seed), column, keys)


def stratified(labels: npt.NDArray[np.int64], classes: int, seed: int) -> SplitRows:
    """Split at random; every class is split by the same shares."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    rows: dict[str, list[npt.NDArray[np.intp]]] = {split: [] for split in SPLITS}
    for label in range(classes):
        of_label = shuffled[labels[shuffled] == label]
        for split, part in zip(SPLITS, np.split(of_label, _cuts(len(of_label))), strict=True):
            rows[split].append(part)
    return {split: np.sort(np.concatenate(parts)) for split, parts in rows.items()}


def by_time(times: npt.NDArray[Any]) -> SplitRows:
    """Split into training before validation before test; rows of one moment stay together."""
    order = np.argsort(times, kind="stable")
    ordered = times[order]
    # Each cut moves to the first row of its moment.
    cuts = np.searchsorted(ordered, ordered[_cuts(len(times))])
    return {split: np.sort(part) for split, part in zip(SPLITS, np.split(order, cuts), strict=True)}


def by_group(groups: npt.NDArray[Any], seed: int) -> SplitRows:
    """Split by a hash of the group: a group stays in its split, whatever other groups later data has."""
    distinct, group_of_row = np.unique(groups, return_inverse=True)
    places = [_place(f"{seed}:{group}") for group in distinct.tolist()]
    split_of_group = np.searchsorted(np.cumsum(list(SPLITS.values()))[:-1], places, side="right")
    split_of_row = split_of_group[group_of_row]
    return {split: np.flatnonzero(split_of_row == number) for number, split in enumerate(SPLITS)}


def _cuts(rows: int) -> npt.NDArray[np.int64]:
    return np.rint(np.cumsum(list(SPLITS.values()))[:-1] * rows).astype(np.int64)


def _place(text: str) -> float:
    """Return a number from 0 to 1 that the text alone determines."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
