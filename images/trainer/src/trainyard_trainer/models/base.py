"""What a model has to bring along; the steps do the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainyard_trainer.lake import Columns
from trainyard_trainer.params import Param

if TYPE_CHECKING:
    import torch


class BaseModel(ABC):
    """A classifier with its data. Modules import torch only inside `network`: two steps do without it."""

    name: str
    labels: int
    steps: frozenset[str] = frozenset({"validate", "preprocess", "train", "evaluate"})
    params: Mapping[str, Param] = {}  # beside params.COMMON
    # On the CPU. Fixed, not taken from the pod's limit: sums depend on how they are split over threads, so
    # on another node the weights would differ. More than one also waits busily where cores are shared.
    threads: int = 1

    @abstractmethod
    def load(self, source: str) -> Columns:
        """Read the source that the URI names. Raises BadConfig or BadData."""

    @abstractmethod
    def check(self, columns: Columns) -> None:
        """Check the raw columns. Raises BadData that names the broken rule."""

    @abstractmethod
    def preprocess(self, columns: Columns, params: Mapping[str, Any]) -> Columns:
        """Make `<split>_inputs` (float32) and `<split>_labels` (int64) for train, validation and test."""

    @abstractmethod
    def network(self) -> torch.nn.Module:
        """Make the untrained network: inputs of shape (batch, ...) to logits (batch, labels)."""
