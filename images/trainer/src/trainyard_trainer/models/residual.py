"""Handwritten digits once more: a residual network with batch normalization, of any width and depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainyard_trainer.models import digits
from trainyard_trainer.models.base import BaseModel
from trainyard_trainer.params import Param

if TYPE_CHECKING:
    import torch


class Model(digits.Model):
    """Digits 0 to 9 as in `digits`."""

    name = "residual"
    params: Mapping[str, Param] = {
        **BaseModel.params,
        "width": Param(16, low=1, high=8192),
        "layers": Param(2, low=1, high=1000),
        "weight_decay": Param(0.0, high=1.0),
    }

    def network(self, inputs: npt.NDArray[np.float32], params: Mapping[str, Any]) -> torch.nn.Module:
        """Return a network of a convolution and `layers` residual blocks of `width` channels."""
        from torch import nn

        from trainyard_trainer.networks import MeanOfPixels, Residual

        width = params["width"]
        return nn.Sequential(
            nn.Conv2d(inputs.shape[1], width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *(Residual(width) for _ in range(params["layers"])),
            MeanOfPixels(),
            nn.Linear(width, self.classes),
        )
