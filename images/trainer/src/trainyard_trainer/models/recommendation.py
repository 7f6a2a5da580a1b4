"""Recommendation of items to users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainyard_trainer.lake import Columns
from trainyard_trainer.models.base import Rows, TableModel
from trainyard_trainer.params import Param
from trainyard_trainer.tables import Field

if TYPE_CHECKING:
    import torch

_LIKED = 4  # stars
_MAX_ID = 10_000_000  # of users and of items: each id has a vector


class Model(TableModel):
    """Whether a user gives an item 4 or 5 stars, from generator://ratings or a CSV file of such columns."""

    name = "recommendation"
    metric = "roc_auc"
    label_column = "rating"
    min_rows = 1000
    input_names = ("user_id", "item_id")
    split_columns: Mapping[str, str] = {"group": "user_id"}
    schema: Mapping[str, Field] = {
        "rating_id": Field("int"),
        "user_id": Field("int", high=_MAX_ID),
        "item_id": Field("int", high=_MAX_ID),
        "rating": Field("int", low=1, high=5),
    }
    params: Mapping[str, Param] = {
        **TableModel.params,
        # A user who rates an item twice gives two rows of equal inputs.
        "max_repeated": Param(1.0, high=1.0, is_hyperparameter=False),
        "batch_size": Param(128, low=1, high=65_536),
        "learning_rate": Param(0.005, low=1e-9, high=10.0),
        "hidden": Param(8, low=1, high=1024),
        "dropout": Param(0.2, high=0.9),
        "weight_decay": Param(0.0001, high=1.0),
    }

    def labels(self, columns: Columns) -> npt.NDArray[np.int64]:
        """Return 1 for an item that the user likes."""
        return (columns["rating"] >= _LIKED).astype(np.int64)

    def clean(self, columns: Columns) -> Rows:
        """Keep each rating once."""
        _, first = np.unique(columns["rating_id"], return_index=True)
        inputs = np.column_stack([columns["user_id"], columns["item_id"]]).astype(np.float32)
        return Rows(inputs[first], self.labels(columns)[first], columns["rating_id"][first], first)

    def network(self, inputs: npt.NDArray[np.float32], params: Mapping[str, Any]) -> torch.nn.Module:
        """Return a matrix factorization with `hidden` numbers for each user and item."""
        from trainyard_trainer.networks import Factors

        users, items = (int(known) + 1 for known in inputs.max(axis=0))
        return Factors(users, items, params["hidden"], params["dropout"])
