"""What a model has to bring along; the steps do the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainyard_trainer import splits, tables
from trainyard_trainer.lake import Columns
from trainyard_trainer.params import Param

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rows:
    """Cleaned rows: inputs (float32), labels (int64), and ids (int64) by which features are joined."""

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]


class BaseModel(ABC):
    """A classifier with its data. Modules import torch only inside `network`: some steps do without it."""

    name: str
    labels: int
    metric: str  # by which models are compared: a key of what scores.metrics returns
    steps: frozenset[str] = frozenset(
        {"generate", "validate", "preprocess", "train", "evaluate", "predict", "clean"}
    )
    # Beside params.COMMON, or with another default than there. The split has a seed apart from training's, so
    # that models of different seeds are tested on the same rows.
    params: Mapping[str, Param] = {"split_seed": Param(0, high=2**31 - 1)}
    # On the CPU. Fixed, not taken from the pod's limit: sums depend on how they are split over threads, so
    # on another node the weights would differ. More than one also waits busily where cores are shared.
    threads: int = 1

    @abstractmethod
    def load(self, source: str, params: Mapping[str, Any]) -> Columns:
        """Read the source that the URI names. Raises BadConfig or BadData."""

    @abstractmethod
    def check(self, columns: Columns) -> None:
        """Check the raw columns. Raises BadData that names the broken rule."""

    @abstractmethod
    def clean(self, columns: Columns) -> Rows:
        """Make rows out of checked raw columns; rows of no use may be left out."""

    @abstractmethod
    def network(self, inputs: npt.NDArray[np.float32], params: Mapping[str, Any]) -> torch.nn.Module:
        """Make the untrained network: (batch, ...) like the training inputs, to logits (batch, labels)."""

    def features(self, columns: Columns) -> Columns:
        """Make `ids` and `features` (float32, rows by features) of raw columns, for models with that step."""
        raise NotImplementedError

    def class_weights(self, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return what a row of each class counts in the loss, given the training labels."""
        return np.ones(self.labels, dtype=np.float32)

    def preprocess(self, columns: Columns, params: Mapping[str, Any]) -> Columns:
        """Make `<split>_inputs`, `<split>_labels` and `<split>_ids` for train, validation and test."""
        rows = self.clean(columns)
        result: Columns = {}
        for split, chosen in splits.stratified(rows.labels, self.labels, params["split_seed"]).items():
            result[f"{split}_inputs"] = rows.inputs[chosen]
            result[f"{split}_labels"] = rows.labels[chosen]
            result[f"{split}_ids"] = rows.ids[chosen]
        return result


class TableModel(BaseModel):
    """A model of two classes whose data is a table, from a CSV file or a generator."""

    labels = 2
    schema: tables.Schema
    label: str  # the column that is to be predicted
    least_rows: int

    def load(self, source: str, params: Mapping[str, Any]) -> Columns:
        """Read the table from where the URI says."""
        return tables.load(source, self.schema, params["date"])

    def check(self, columns: Columns) -> None:
        """Check columns, rows, values and classes, in this order."""
        tables.check(columns, self.schema, label=self.label, least_rows=self.least_rows)
        tables.check_classes(self.label, self.targets(columns))

    def targets(self, columns: Columns) -> npt.NDArray[np.int64]:
        """Return the class of each row."""
        return columns[self.label]
