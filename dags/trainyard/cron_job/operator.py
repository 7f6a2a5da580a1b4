"""`RunCronJobOperator`: run once, and now, what a CronJob of the chart runs by its schedule."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from trainyard.triggerer.base import TriggererOperator, start_args

TRIGGER = "trainyard.cron_job.trigger.CronJobTrigger"


class RunCronJobOperator(TriggererOperator):
    """Start a Job from a CronJob's template, as `kubectl create job --from` does, and wait until it ends.

    It starts and ends in the triggerer. The Job's log becomes the task's. A Job that fails fails the try with
    its last words; the next try starts another. A try that a user ends leaves its Job to its own deadline.

    Text in `env` may hold templates. The XCom `return_value` is `{"job": NAME}`.

    Args:
        namespace: where the CronJob is.
        cron_job: its name. It may be suspended, which only concerns its schedule.
        env: values for environment variables that its container has; None leaves the container's.
        deadline: how long the Job may take, the wait for its pod included.
        kwargs: as for any operator.
    """

    template_fields = ("env",)
    template_fields_renderers = {"env": "json"}  # noqa: RUF012
    ui_color = "#eeeeee"

    def __init__(
        self,
        *,
        namespace: str,
        cron_job: str,
        env: Mapping[str, Any] | None = None,
        deadline: timedelta = timedelta(hours=3),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace
        self.cron_job = cron_job
        self.env = dict(env or {})
        self.deadline = deadline
        request = {
            "namespace": namespace,
            "cron_job": cron_job,
            "env": self.env,
            "deadline_seconds": int(deadline.total_seconds()),
        }
        self.start_trigger_args = start_args(TRIGGER, request, deadline + timedelta(minutes=30))
