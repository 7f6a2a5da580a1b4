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


class Residual(nn.Module):
    """Adds to an image (batch, width, height, width of it) what two convolutions make of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return images of the same shape."""
        return torch.relu(images + self.change(images))


class MeanOfPixels(nn.Module):
    """The mean of each channel. AdaptiveAvgPool2d has no deterministic gradient on a GPU."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (batch, channels)."""
        return images.mean([2, 3])


class Transformer(nn.Module):
    """Predicts the next symbol at each place of a sequence of at most `context` symbols."""

    def __init__(
        self, symbols: int, context: int, width: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.symbols = symbols
        self.symbol = nn.Embedding(symbols, width)
        self.place = nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.Sequential(*(Attention(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.next = nn.Linear(width, symbols)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits (batch, symbols, length) for the numbers of symbols (batch, length)."""
        numbers = inputs.to(torch.int64).clamp(0, self.symbols - 1)
        states = self.symbol(numbers) + self.place[: numbers.shape[1]]
        return self.next(self.norm(self.blocks(states))).transpose(1, 2)


class Attention(nn.Module):
    """A block of a transformer: each place looks at itself and at those before it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.before = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.change = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return states of the same shape: (batch, length, width)."""
        batch, length, width = states.shape
        parts = self.project(self.before(states)).view(batch, length, 3, self.heads, width // self.heads)
        parts = parts.permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(
            parts[0], parts[1], parts[2], dropout_p=self.dropout if self.training else 0.0, is_causal=True
        )
        states = states + self.drop(self.join(seen.transpose(1, 2).reshape(batch, length, width)))
        return states + self.drop(self.change(states))


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
