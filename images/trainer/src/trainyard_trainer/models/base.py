"""The interface of a model. Steps call it and do everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from trainyard_contract import NO_SPLIT

from trainyard_trainer import splits, tables
from trainyard_trainer.errors import BadConfig, BadData
from trainyard_trainer.lake import Columns
from trainyard_trainer.params import Param

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rows:
    """Cleaned rows: inputs (float32), labels (int64), and ids (int64) by which features are joined.

    A row has one label, or in a sequence one for each place: shape (rows,) or (rows, places). `raw_rows` is
    the row of the raw columns that each was made from.
    """

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    raw_rows: npt.NDArray[np.intp]


class BaseModel(ABC):
    """A classifier and its data. Its module imports torch only in `network`: some steps do not need it."""

    name: str
    classes: int  # number of classes
    metric: str  # by which models are compared: a key of the result of scores.metrics
    steps: frozenset[str] = frozenset(
        {"generate", "validate", "preprocess", "train", "evaluate", "predict", "clean"}
    )
    # In addition to params.COMMON, or with another default. The split has its own seed, so that models of
    # different training seeds are tested on the same rows.
    params: Mapping[str, Param] = {"split_seed": Param(0, high=2**31 - 1)}
    # By what the rows are split unless a parameter says otherwise, and the raw columns of `time` and `group`.
    split_by: str = "random"
    split_columns: Mapping[str, str] = {}
    input_names: Sequence[str] = ()  # for the check for leakage; without names inputs are numbered
    # CPU threads. A fixed number and not the pod's limit: floating-point sums depend on the number of
    # threads, so weights would differ between nodes. Several threads also busy-wait where cores are shared.
    threads: int = 1

    @abstractmethod
    def load(self, source: str, params: Mapping[str, Any]) -> Columns:
        """Read the source of a URI. Raises BadConfig or BadData."""

    @abstractmethod
    def check(self, columns: Columns) -> None:
        """Check the raw columns. Raises BadData naming the broken rule."""

    @abstractmethod
    def clean(self, columns: Columns) -> Rows:
        """Convert checked raw columns to rows, without duplicates."""

    @abstractmethod
    def network(self, inputs: npt.NDArray[np.float32], params: Mapping[str, Any]) -> torch.nn.Module:
        """Return an untrained network, from (batch, ...) like the inputs to logits (batch, classes).

        Where rows are sequences these are (batch, classes, places).
        """

    def features(self, columns: Columns) -> Columns:
        """Return `ids` and `features` (float32, rows by features); only for models with that step."""
        raise NotImplementedError

    def class_weights(self, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the weight of each class in the loss, given the training labels."""
        return np.ones(self.classes, dtype=np.float32)

    def split_key(self, params: Mapping[str, Any]) -> tuple[str, str]:
        """Return by what rows are split, and the raw column of that time or group. Raises BadConfig."""
        kind, column = params["split"] or self.split_by, params["split_column"]
        if kind not in ("time", "group"):
            if column:
                raise BadConfig(f"parameter 'split_column' is {column!r}; set split to time or group as well")
            return kind, ""
        column = column or self.split_columns.get(kind, "")
        if not column:
            raise BadConfig(
                f"parameter 'split' is {kind!r}, for which {self.name} has no column of its own; "
                "name one in split_column, or use random"
            )
        return kind, column

    def split(self, columns: Columns, rows: Rows, params: Mapping[str, Any]) -> splits.Split:
        """Split the rows, cleaned from these columns, as the parameters say. Raises BadConfig or BadData."""
        kind, column = self.split_key(params)
        if kind == NO_SPLIT:
            raise BadConfig("parameter 'split' is 'none', as for data to predict; use random, time or group")
        if column and column not in columns:
            raise BadData(f"rule split: there is no column {column!r}; give split_column to validate as well")
        if column:
            split = splits.by_key(kind, column, columns[column][rows.raw_rows], params["split_seed"])
        else:
            split = splits.Split(kind, splits.stratified(rows.labels, self.classes, params["split_seed"]))
        split.check_classes(rows.labels, self.classes)
        return split

    def preprocess(self, columns: Columns, params: Mapping[str, Any]) -> Columns:
        """Return `<split>_inputs`, `<split>_labels` and `<split>_ids` for train, validation and test."""
        rows = self.clean(columns)
        result: Columns = {}
        for split, chosen in self.split(columns, rows, params).rows.items():
            result[f"{split}_inputs"] = rows.inputs[chosen]
            result[f"{split}_labels"] = rows.labels[chosen]
            result[f"{split}_ids"] = rows.ids[chosen]
        return result


class TableModel(BaseModel):
    """A model of two classes whose data is a table, from a CSV file or a generator."""

    classes = 2
    schema: tables.Schema
    label_column: str
    min_rows: int

    def load(self, source: str, params: Mapping[str, Any]) -> Columns:
        """Read the table of a URI; with a `split_column` that is not in the schema also that column."""
        kind, column = self.split_key(params)
        extra = {column: tables.Field("time" if kind == "time" else "text")} if column else {}
        return tables.load(source, {**extra, **self.schema}, params["date"])

    def check(self, columns: Columns) -> None:
        """Check columns, rows, values and classes, in this order."""
        tables.check(columns, self.schema, label_column=self.label_column, min_rows=self.min_rows)
        tables.check_classes(self.label_column, self.labels(columns))

    def labels(self, columns: Columns) -> npt.NDArray[np.int64]:
        """Return the class of each row."""
        return columns[self.label_column]
