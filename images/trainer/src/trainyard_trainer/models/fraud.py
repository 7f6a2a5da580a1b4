"""Fraudulent card transactions: about one in fifty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainyard_trainer.generators import CATEGORIES
from trainyard_trainer.lake import Columns
from trainyard_trainer.models.base import BaseModel, Rows, TableModel
from trainyard_trainer.params import Param
from trainyard_trainer.tables import Field, one_hot

if TYPE_CHECKING:
    import torch

_MAX_GAP = 30 * 24.0  # hours


class Model(TableModel):
    """Whether a transaction is fraud, from generator://transactions or a CSV file with the same columns."""

    name = "fraud"
    metric = "average_precision"
    steps = BaseModel.steps | {"features"}
    label_column = "is_fraud"
    min_rows = 2000
    # By time: in production, too, the model judges what comes after its training.
    split_by = "time"
    split_columns: Mapping[str, str] = {"time": "hours", "group": "card_id"}
    input_names = ("amount", "distance_km", "card_present", "night", "hour_sin", "hour_cos", *CATEGORIES)
    schema: Mapping[str, Field] = {
        "transaction_id": Field("int"),
        "card_id": Field("int"),
        "hours": Field("float"),  # since the midnight before the first
        "amount": Field("float", optional=True),
        "category": Field("text", choices=CATEGORIES),
        "distance_km": Field("float", high=20_100, optional=True),  # from the owner's home
        "card_present": Field("int", high=1),
        "is_fraud": Field("int", high=1),
    }
    params: Mapping[str, Param] = {
        **TableModel.params,
        "epochs": Param(20, low=1, high=10_000),
        "batch_size": Param(256, low=1, high=65_536),
        "learning_rate": Param(0.002, low=1e-9, high=10.0),
        "hidden": Param(64, low=1, high=1024),
        "dropout": Param(0.1, high=0.9),
        "weight_decay": Param(0.00001, high=1.0),
    }

    def clean(self, columns: Columns) -> Rows:
        """Keep each transaction once; missing values remain, and the network uses the mean."""
        first = _first(columns)
        hour = columns["hours"] % 24
        numbers = [
            np.log1p(columns["amount"]),
            np.log1p(columns["distance_km"]),
            columns["card_present"],
            hour < 6,
            np.sin(hour * np.pi / 12),
            np.cos(hour * np.pi / 12),
        ]
        inputs = np.hstack([np.column_stack(numbers), one_hot(columns["category"], CATEGORIES)])
        return Rows(
            inputs[first].astype(np.float32),
            columns["is_fraud"][first],
            columns["transaction_id"][first],
            first,
        )

    def features(self, columns: Columns) -> Columns:
        """Compare each transaction with the card's earlier ones: their amounts, times and number.

        Later transactions are not used: they are not known yet when a transaction is to be judged.
        """
        first = _first(columns)
        card, hours = columns["card_id"][first], columns["hours"][first]
        amount = np.log1p(columns["amount"][first])
        order = np.lexsort((hours, card))
        history = _History(card[order], hours[order], amount[order])
        ordered = np.column_stack([history.surplus(), history.gap(), history.earlier()])
        features = np.empty_like(ordered)
        features[order] = ordered
        return {"ids": columns["transaction_id"][first], "features": features.astype(np.float32)}

    def class_weights(self, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Give fraud the square root of its rarity as weight: the full rarity adds too much noise."""
        genuine, fraud = np.bincount(labels, minlength=2)
        return np.array([1, np.sqrt(genuine / max(fraud, 1))], dtype=np.float32)

    def network(self, inputs: npt.NDArray[np.float32], params: Mapping[str, Any]) -> torch.nn.Module:
        """Return a network of two hidden layers."""
        from trainyard_trainer.networks import perceptron

        return perceptron(inputs, params, self.classes)


class _History:
    """Transactions in order of card and time."""

    def __init__(
        self, card: npt.NDArray[np.int64], hours: npt.NDArray[np.float64], amount: npt.NDArray[np.float64]
    ) -> None:
        self._hours = hours
        self._amount = amount
        starts = np.flatnonzero(np.diff(card, prepend=-1))
        # For each row, the index of its card's first transaction.
        self._start = np.repeat(starts, np.diff(starts, append=len(card)))

    def earlier(self) -> npt.NDArray[np.float64]:
        """Return the logarithm of the number of the card's earlier transactions."""
        return np.log1p(np.arange(len(self._start)) - self._start)

    def gap(self) -> npt.NDArray[np.float64]:
        """Return the logarithm of the hours since the card's previous transaction, of _MAX_GAP at most."""
        gap = np.diff(self._hours, prepend=0)
        gap[self._start == np.arange(len(gap))] = _MAX_GAP
        return np.log(gap.clip(0, _MAX_GAP) + 0.1)

    def surplus(self) -> npt.NDArray[np.float64]:
        """Return the amount minus the mean of the card's earlier ones; NaN where there is none."""
        known = np.isfinite(self._amount)
        total = np.concatenate([[0.0], np.cumsum(np.where(known, self._amount, 0))])
        count = np.concatenate([[0], np.cumsum(known)])
        row = np.arange(len(known))
        with np.errstate(invalid="ignore"):
            return self._amount - (total[row] - total[self._start]) / (count[row] - count[self._start])


def _first(columns: Columns) -> npt.NDArray[np.intp]:
    """Return the index of the first row of each transaction: some are delivered twice."""
    return np.unique(columns["transaction_id"], return_index=True)[1]
