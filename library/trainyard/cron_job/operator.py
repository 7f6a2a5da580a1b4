"""`RunCronJobOperator`: run a CronJob of the chart once, outside its schedule."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from trainyard.triggerer.base import TriggererOperator, start_args

TRIGGER = "trainyard.cron_job.trigger.CronJobTrigger"


class RunCronJobOperator(TriggererOperator):
    """Create a Job from a CronJob, as `kubectl create job --from` does, and wait until it ends.

    It starts and ends in the triggerer. The Job's log is copied to the task's log. If the Job fails, the try
    fails with the Job's error, and the next try creates another Job. If a user ends the task, the Job
    continues until its own deadline.

    Strings in `env` may be templates. The XCom `return_value` is `{"job": NAME}`.

    Args:
        namespace: the CronJob's namespace.
        cron_job: its name. It may be suspended, which only affects its schedule.
        env: values for environment variables that its container has; None keeps the container's value.
        deadline: how long the Job may take, including the wait for its pod.
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
