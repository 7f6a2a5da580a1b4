"""The optimizer: its learning rate over the steps of the training, and the limit of its gradient."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR


class Optimization:
    """Adam, as `learning_rate`, `weight_decay`, `schedule`, `warmup` and `max_gradient_norm` say."""

    def __init__(self, network: torch.nn.Module, params: Mapping[str, Any], steps: int) -> None:
        """Optimize the network in that number of steps: all batches of all epochs."""
        self._network = network
        self._max_norm = float(params["max_gradient_norm"])
        self._adam = torch.optim.Adam(
            network.parameters(), lr=params["learning_rate"], weight_decay=params.get("weight_decay", 0.0)
        )
        warmup = round(params["warmup"] * steps)
        schedule = params["schedule"]
        self._rate = LambdaLR(self._adam, lambda step: rate(schedule, step, warmup, steps))

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return float(self._adam.param_groups[0]["lr"])

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self._adam.zero_grad()

    def step(self) -> None:
        """Take one step along the gradient."""
        if self._max_norm:
            clip_grad_norm_(self._network.parameters(), self._max_norm)
        self._adam.step()
        self._rate.step()

    def state(self) -> tuple[dict[Any, Any], list[dict[str, Any]]]:
        """Return the tensors, and what JSON can tell."""
        state = self._adam.state_dict()
        return state["state"], state["param_groups"]

    def restore(self, tensors: Mapping[Any, Any], groups: list[dict[str, Any]], step: int) -> None:
        """Restore a state that was returned after that number of steps."""
        self._adam.load_state_dict({"state": tensors, "param_groups": groups})
        self._rate.last_epoch = step  # of which alone the rate depends


def rate(schedule: str, step: int, warmup: int, steps: int) -> float:
    """Return the share of the learning rate at a step, counted from 0: it rises, then falls to 0."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    falling = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return falling[schedule]
