"""Trigger of a training as a triggerer gets it, which keeps what it would store."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from airflow.sdk import DAG
from trainyard.training.operator import TrainingPodOperator
from trainyard.training.trigger import TrainingPodTrigger


class Told(TrainingPodTrigger):
    """A trigger that keeps the XComs which it pushes."""

    xcoms: list[dict[str, Any]]

    async def push(self, xcoms: Mapping[str, Any], mapped_length: int | None = None) -> None:
        self.xcoms.append(dict(xcoms))

    def pushed(self, key: str) -> list[Any]:
        return [each[key] for each in self.xcoms if key in each]


def training_of(dag_id: str, pool: str, **arguments: Any) -> TrainingPodOperator:
    """The task `train` of this DAG."""
    with DAG(dag_id, schedule=None):
        return TrainingPodOperator(
            task_id="train",
            step="train",
            dataset="file:///data/x",
            output_uri="file:///checkpoints/m",
            gpu_pool=pool,
            deadline=timedelta(hours=1),
            **arguments,
        )


def trigger_of(training: TrainingPodOperator) -> Told:
    """The trigger of the first try in a run `r`."""
    trigger, trigger_args = Told({}), training.start_trigger_args
    ids = {"dag_id": training.dag_id, "run_id": "r", "task_id": "train", "map_index": -1, "try_number": 1}
    trigger.task_instance = SimpleNamespace(**ids, id=uuid4(), task=None)
    trigger.request, trigger.xcoms = dict((trigger_args.trigger_kwargs or {})["request"]), []
    trigger.render_template_fields({"ti": trigger.task_instance})
    return trigger
