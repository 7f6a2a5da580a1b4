"""Customer churn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainyard_trainer.generators import CONTRACTS
from trainyard_trainer.lake import Columns
from trainyard_trainer.models.base import Rows, TableModel
from trainyard_trainer.params import Param
from trainyard_trainer.tables import Field, one_hot

if TYPE_CHECKING:
    import torch

_INPUTS = ("age", "tenure_months", "monthly_charge", "usage_hours", "support_calls", "late_payments")


class Model(TableModel):
    """Whether a customer leaves, from generator://customers or a CSV file with the same columns."""

    name = "churn"
    metric = "roc_auc"
    label_column = "has_churned"
    min_rows = 500
    input_names = (*_INPUTS, *CONTRACTS)
    schema: Mapping[str, Field] = {
        "customer_id": Field("int"),
        "age": Field("float", low=16, high=120, optional=True),
        "tenure_months": Field("int", high=600),
        "contract": Field("text", choices=CONTRACTS),
        "monthly_charge": Field("float", high=10_000),
        "usage_hours": Field("float", high=744),
        "support_calls": Field("int", high=1000),
        "late_payments": Field("int", high=1000),
        "has_churned": Field("int", high=1),
    }
    params: Mapping[str, Param] = {
        **TableModel.params,
        "hidden": Param(32, low=1, high=1024),
        "dropout": Param(0.2, high=0.9),
        "weight_decay": Param(0.0001, high=1.0),
    }

    def clean(self, columns: Columns) -> Rows:
        """Keep each customer once; missing ages remain, and the network uses the mean."""
        _, first = np.unique(columns["customer_id"], return_index=True)
        numbers = np.column_stack([columns[name] for name in _INPUTS])
        inputs = np.hstack([numbers, one_hot(columns["contract"], CONTRACTS)]).astype(np.float32)
        return Rows(inputs[first], self.labels(columns)[first], columns["customer_id"][first], first)

    def network(self, inputs: npt.NDArray[np.float32], params: Mapping[str, Any]) -> torch.nn.Module:
        """Return a network of two hidden layers."""
        from trainyard_trainer.networks import perceptron

        return perceptron(inputs, params, self.classes)
