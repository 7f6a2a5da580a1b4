"""Running a CronJob of the chart once, now: operator and trigger."""
