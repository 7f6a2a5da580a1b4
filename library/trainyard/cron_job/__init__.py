"""Running a CronJob of the chart once, outside its schedule: operator and trigger."""
