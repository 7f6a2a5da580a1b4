"""Networks that several models use. All are scriptable: loading a saved model does not need this package."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn


class Standardize(nn.Module):
    """Standardizes each column by the training inputs; a missing value becomes the mean.

    It is part of the network, so that clients of the model send plain values.
    """

    def __init__(self, inputs: npt.NDArray[np.float32]) -> None:
        super().__init__()
        values = inputs.astype(np.float64)
        deviation = np.nanstd(values, axis=0)
        self.register_buffer("mean", torch.from_numpy(np.nanmean(values, axis=0).astype(np.float32)))
        self.register_buffer(
            "deviation", torch.from_numpy(np.where(deviation > 0, deviation, 1).astype(np.float32))
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Standardize."""
        return torch.nan_to_num((inputs - self.mean) / self.deviation).clamp(-10.0, 10.0)


class Factors(nn.Module):
    """Matrix factorization: the product of a user's and an item's vectors, plus a bias of each.

    Users and items that training has not seen have the zero vector and no bias.
    """

    def __init__(self, users: int, items: int, size: int, dropout: float) -> None:
        super().__init__()
        self.users = users
        self.items = items
        self.user = nn.Embedding(users + 1, size + 1)
        self.item = nn.Embedding(items + 1, size + 1)
        self.bias = nn.Parameter(torch.zeros(1))
        self.dropout = nn.Dropout(dropout)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1)
            with torch.no_grad():
                table.weight[-1] = 0.0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits of "dislikes" (always 0) and "likes" for rows of user and item."""
        numbers = inputs.to(torch.int64)
        user = self.user(numbers[:, 0].clamp(0, self.users))
        item = self.item(numbers[:, 1].clamp(0, self.items))
        product = (self.dropout(user[:, 1:]) * item[:, 1:]).sum(1)
        likes = product + user[:, 0] + item[:, 0] + self.bias
        return torch.stack([torch.zeros_like(likes), likes], 1)


def perceptron(inputs: npt.NDArray[np.float32], params: Mapping[str, Any], classes: int) -> nn.Module:
    """Return a network of two hidden layers of `hidden` units with `dropout`, for standardized inputs."""
    hidden = params["hidden"]
    return nn.Sequential(
        Standardize(inputs),
        nn.Linear(inputs.shape[1], hidden),
        nn.ReLU(),
        nn.Dropout(params["dropout"]),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(params["dropout"]),
        nn.Linear(hidden, classes),
    )
