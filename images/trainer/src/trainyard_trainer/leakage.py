"""What gives answers away: rows, times or groups that two splits share, and inputs that tell the label."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from trainyard_trainer.errors import BadData
from trainyard_trainer.models.base import Rows
from trainyard_trainer.splits import SPLITS, Split

_TELLING = 0.99  # area below the ROC curve of one input alone
_MOST_NAMED = 5  # inputs: the result must stay small


@dataclass(frozen=True)
class Findings:
    """What a split that passed has nevertheless."""

    repeated_rows: int  # of validation and test: another row, in training, has the same inputs and label
    telling_inputs: dict[str, float]  # those that alone tell the label, with the area below the ROC curve

    def __str__(self) -> str:
        found = [f"{self.repeated_rows} rows repeat training"] if self.repeated_rows else []
        found += [f"{name} alone tells the label ({area})" for name, area in self.telling_inputs.items()]
        return "; ".join(found) or "none"


def check(rows: Rows, split: Split, *, input_names: Sequence[str], max_repeated: float) -> Findings:
    """Check a split of the rows. Raises BadData for what training shares with validation and test.

    An input that tells the label is a finding and no error: an easy problem has such inputs, too.
    """
    _refuse_divided("id", rows.ids, split, "make clean() keep each row once")
    if split.kind == "group" and split.keys is not None:
        _refuse_divided(f"group of column {split.column!r}", split.keys, split, "keep its rows together")
    if split.kind == "time" and split.keys is not None:
        _check_order(split, split.keys)
    return Findings(_repeated(rows, split, max_repeated), _telling(rows, split, input_names))


def _refuse_divided(what: str, values: npt.NDArray[Any], split: Split, cure: str) -> None:
    """Refuse values that rows of more than one split have."""
    number = np.repeat(np.arange(len(SPLITS)), [len(split.rows[name]) for name in SPLITS])
    distinct, of_row = np.unique(
        np.concatenate([values[split.rows[name]] for name in SPLITS]), return_inverse=True
    )
    pairs = np.unique(of_row * len(SPLITS) + number)
    divided = np.flatnonzero(np.bincount(pairs // len(SPLITS)) > 1)
    if len(divided):
        raise BadData(
            f"rule leakage: the {what} is in two splits for {len(divided)} of {len(distinct)}, "
            f"the first is {distinct[divided[0]].item()!r}; {cure}"
        )


def _check_order(split: Split, times: npt.NDArray[Any]) -> None:
    for before, after in pairwise(SPLITS):
        last, first = times[split.rows[before]].max(), times[split.rows[after]].min()
        if last >= first:
            raise BadData(
                f"rule leakage: column {split.column!r} reaches {last} in {before}, but {after} begins at "
                f"{first}; put earlier rows in {before}"
            )


def _repeated(rows: Rows, split: Split, max_repeated: float) -> int:
    inputs = rows.inputs.reshape(len(rows.labels), -1)
    labels = rows.labels.reshape(len(inputs), -1).astype(inputs.dtype)
    content = np.ascontiguousarray(np.hstack([inputs, labels]))
    as_bytes = content.view(np.dtype((np.void, content.shape[1] * content.itemsize)))[:, 0]
    others = np.concatenate([part for name, part in split.rows.items() if name != "train"])
    found = int(np.isin(as_bytes[others], as_bytes[split.rows["train"]]).sum())
    if found > max_repeated * len(others):
        raise BadData(
            f"rule leakage: {found} of {len(others)} rows of validation and test have the inputs and label "
            f"of a row in training, at most {max_repeated:.1%} may; remove rows that were delivered again, "
            "or raise the parameter max_repeated where different rows are equal by nature"
        )
    return found


def _telling(rows: Rows, split: Split, names: Sequence[str]) -> dict[str, float]:
    """Return the inputs by which alone a class is told from the others, in training; none of sequences."""
    if rows.labels.ndim > 1:
        return {}
    chosen = split.rows["train"]
    inputs, labels = rows.inputs.reshape(len(rows.labels), -1)[chosen], rows.labels[chosen]
    areas = {
        names[number] if names else f"input {number}": _area(inputs[:, number], labels)
        for number in range(inputs.shape[1])
    }
    telling = sorted((name for name in areas if areas[name] >= _TELLING), key=lambda name: -areas[name])
    return {name: round(areas[name], 4) for name in telling[:_MOST_NAMED]}


def _area(values: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Return the largest area below the ROC curve of the values, ascending or descending, for any class."""
    _, rank = np.unique(values, return_inverse=True)  # missing values are the highest: they may tell, too
    total = np.bincount(rank)
    largest = 0.0
    for label in range(labels.max() + 1):
        inside = np.bincount(rank[labels == label], minlength=len(total))
        outside = total - inside
        lower = np.cumsum(outside) - outside / 2
        area = float((inside * lower).sum() / (inside.sum() * outside.sum()))
        largest = max(largest, area, 1 - area)
    return largest
