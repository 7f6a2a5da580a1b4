"""The path of this trigger in release 0.1, as deferred tasks of that time name it. Gone in 0.3."""

from trainyard.cron_job.trigger import CronJobTrigger

__all__ = ["CronJobTrigger"]
