"""`WaitForObjectOperator`: wait until an object is there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from trainyard.triggerer.base import TRIGGERER_PATIENCE, TriggererOperator, start_args

TRIGGER = "trainyard.object_store.trigger.WaitForObjectTrigger"


class WaitForObjectOperator(TriggererOperator):
    """Wait until an object is in the object store.

    It starts and ends in the triggerer. Airflow's S3KeySensor, deferrable or not, begins in a worker pod, and
    ends in another one if it had to wait.

    Args:
        uri: the object, `s3://BUCKET/KEY`; may be a template.
        connection: Airflow's connection to the object store.
        patience: how long after the start of the run it waits; then it fails, without another try.
        poll: how often to look.
        kwargs: as for any operator.
    """

    template_fields = ("uri",)
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        uri: str,
        connection: str,
        patience: timedelta = timedelta(hours=6),
        poll: timedelta = timedelta(minutes=1),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.uri = uri
        self.connection = connection
        self.patience = patience
        self.poll = poll
        request = {
            "uri": uri,
            "connection": connection,
            "patience_seconds": patience.total_seconds(),
            "poll_seconds": poll.total_seconds(),
        }
        self.start_trigger_args = start_args(TRIGGER, request, patience + TRIGGERER_PATIENCE)
