"""Breast tumours: the 569 cases in scikit-learn, each with 30 measures of cell nuclei."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainyard_trainer import tables
from trainyard_trainer.errors import BadConfig, BadData
from trainyard_trainer.lake import Columns
from trainyard_trainer.models.base import BaseModel, Rows
from trainyard_trainer.params import Param

if TYPE_CHECKING:
    import torch

_SOURCE = "sklearn://breast_cancer"
_MIN_ROWS = 200


class Model(BaseModel):
    """Whether a tumour is malignant (class 1)."""

    name = "tumours"
    classes = 2
    metric = "roc_auc"
    params: Mapping[str, Param] = {
        **BaseModel.params,
        "epochs": Param(30, low=1, high=10_000),
        "hidden": Param(16, low=1, high=1024),
        "dropout": Param(0.2, high=0.9),
        "weight_decay": Param(0.001, high=1.0),
    }

    def load(self, source: str, params: Mapping[str, Any]) -> Columns:
        """Read scikit-learn's data set."""
        if source != _SOURCE:
            raise BadConfig(f"--dataset is {source!r}; use {_SOURCE}")
        from sklearn.datasets import load_breast_cancer

        tumours = load_breast_cancer()
        return {"measures": tumours.data, "labels": (tumours.target == 0).astype(np.int64)}

    def check(self, columns: Columns) -> None:
        """Check schema, rows, missing values and classes, in this order."""
        if columns.keys() != {"measures", "labels"}:
            raise BadData(f"rule schema: the arrays are {sorted(columns)}, must be measures and labels")
        measures, labels = columns["measures"], columns["labels"]
        if len(labels) < _MIN_ROWS or measures.shape[:1] != labels.shape:
            raise BadData(
                f"rule rows: there are {len(measures)} with {len(labels)} labels, "
                f"must be at least {_MIN_ROWS}"
            )
        missing = np.flatnonzero(~np.isfinite(measures).all(axis=1))
        if len(missing):
            raise BadData(
                f"rule missing: {len(missing)} tumours lack measures, the first is row {missing[0]}"
            )
        tables.check_classes("labels", labels)

    def clean(self, columns: Columns) -> Rows:
        """Use the measures unchanged: the network standardizes them."""
        labels = columns["labels"]
        number = np.arange(len(labels))
        return Rows(columns["measures"].astype(np.float32), labels, number, number)

    def network(self, inputs: npt.NDArray[np.float32], params: Mapping[str, Any]) -> torch.nn.Module:
        """Return a network of two small hidden layers."""
        from trainyard_trainer.networks import perceptron

        return perceptron(inputs, params, self.classes)
