"""What a step is called with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainyard_trainer.distributed import Worker
from trainyard_trainer.models.base import BaseModel
from trainyard_trainer.params import Param
from trainyard_trainer.preemption import Preemption
from trainyard_trainer.settings import Settings
from trainyard_trainer.tracking import Tracker

Result = dict[str, Any]  # as JSON


@dataclass(frozen=True)
class Context:
    """The arguments of one step, checked and completed with defaults."""

    run_key: str
    dataset: str  # URI
    output: str  # URI
    params: dict[str, Any]
    known_params: Mapping[str, Param]
    resume: bool
    model: BaseModel
    settings: Settings
    tracker: Tracker
    preemption: Preemption
    worker: Worker
