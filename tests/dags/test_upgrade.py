"""A run that is deferred during an upgrade goes on: the database holds the class paths of triggers."""

from __future__ import annotations

from typing import Any

import pytest
from airflow._shared.module_loading import import_string
from airflow.models.trigger import Trigger
from trainyard.cron_job.trigger import CronJobTrigger
from trainyard.serving.trigger import DeployModelTrigger
from trainyard.training.trigger import TrainingPodTrigger

# Paths that releases before the present one have stored, and what they are by now.
STORED = {
    "trainyard.triggers.TrainingPodTrigger": TrainingPodTrigger,
    "trainyard.deploy_trigger.DeployModelTrigger": DeployModelTrigger,
    "trainyard.cron_job_trigger.CronJobTrigger": CronJobTrigger,
}
REQUEST = {"request": {"step": "train", "dataset": "file:///data", "mapped": {}}}


@pytest.mark.parametrize(("path", "trigger_class"), STORED.items())
def test_a_stored_trigger_is_made_again(path: str, trigger_class: type) -> None:
    # As the triggerer does it: the row's encrypted arguments, and the class by its path.
    row = Trigger(classpath=path, kwargs=REQUEST)
    trigger = import_string(row.classpath)(**row.kwargs)
    assert type(trigger) is trigger_class
    assert trigger.request == REQUEST["request"]


@pytest.mark.parametrize("trigger_class", STORED.values())
def test_a_trigger_is_stored_by_its_present_path(trigger_class: Any) -> None:
    path, arguments = trigger_class(**REQUEST).serialize()
    assert import_string(path) is trigger_class
    assert path not in STORED
    assert arguments == REQUEST
