"""A run that is deferred during an upgrade goes on: the database holds the class paths of triggers.

The requests are literal, as release 0.1 stored them: a key that is renamed in the library has to fail here.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
from airflow._shared.module_loading import import_string
from airflow.models.trigger import Trigger
from trainyard.cron_job.trigger import CronJobTrigger, job_from
from trainyard.naming import TaskIdentity
from trainyard.serving.manifests import DeployRequest
from trainyard.serving.trigger import DeployModelTrigger
from trainyard.training.attempt import RetryPlan
from trainyard.training.pod import TrainingRequest
from trainyard.training.trigger import TrainingPodTrigger

TRAINING = {
    "step": "train",
    "dataset": "file:///data/x",
    "output_uri": "file:///checkpoints/m",
    "step_params": {"epochs": 3},
    "gpu_pool": "spot",
    "gpus": 2,
    "nodes": 1,
    "image": None,
    "env_vars": {"TRAINYARD_USER": "risk-team"},
    "container_resources": {"limits": {"memory": "2Gi"}},
    "max_preemptions": 7,
    "run_key": None,
    "parent_run_key": "sweep__r",
    "on_oom": "batch",
    "fallback": "cpu",
    "escalate_to": "ondemand",
    "escalate_after": 3,
    "deadline_seconds": 7200,
    "queue_timeout_seconds": 86400,
    "startup_timeout_seconds": 3600,
    "fallback_after_seconds": 600,
    "mapped": {},
}
DEPLOY = {"model": "digits", "version": "3", "replicas": 2, "image": None, "timeout_seconds": 600}
CRON_JOB = {
    "namespace": "ml-platform",
    "cron_job": "backup",
    "env": {"DRY_RUN": "true"},
    "deadline_seconds": 10800,
}
# Paths that releases before the present one have stored, what they are by now, and a request.
STORED = {
    "trainyard.triggers.TrainingPodTrigger": (TrainingPodTrigger, TRAINING),
    "trainyard.deploy_trigger.DeployModelTrigger": (DeployModelTrigger, DEPLOY),
    "trainyard.cron_job_trigger.CronJobTrigger": (CronJobTrigger, CRON_JOB),
}


def made_again(path: str, identity: TaskIdentity) -> Any:
    """As the triggerer does it: the row's encrypted arguments, and the class by its path."""
    request: Any = STORED[path][1]
    row = Trigger(classpath=path, kwargs={"request": request})
    trigger = import_string(row.classpath)(**row.kwargs)
    trigger.task_instance = SimpleNamespace(**asdict(identity), id=identity.uid)
    trigger.request = trigger.rendered({"ti": identity})
    return trigger


@pytest.mark.parametrize("path", STORED)
def test_a_stored_trigger_is_made_again(path: str, identity: TaskIdentity) -> None:
    trigger_class, request = STORED[path]
    trigger = made_again(path, identity)
    assert type(trigger) is trigger_class
    assert trigger.request == {name: value for name, value in request.items() if name != "mapped"}


@pytest.mark.parametrize(("trigger_class", "request_"), STORED.values())
def test_a_trigger_is_stored_by_its_present_path(trigger_class: Any, request_: Any) -> None:
    path, arguments = trigger_class(request=request_).serialize()
    assert import_string(path) is trigger_class
    assert path not in STORED
    assert arguments == {"request": request_}


def test_a_training_goes_on_with_all_its_arguments(identity: TaskIdentity) -> None:
    request, plan, timeouts = made_again("trainyard.triggers.TrainingPodTrigger", identity).arguments()
    assert request == TrainingRequest(
        step="train",
        dataset="file:///data/x",
        output_uri="file:///checkpoints/m",
        deadline_seconds=7200,
        step_params={"epochs": 3},
        gpu_pool="spot",
        gpus=2,
        env_vars={
            "TRAINYARD_AIRFLOW_URL": request.env_vars["TRAINYARD_AIRFLOW_URL"],
            "TRAINYARD_USER": "risk-team",
        },
        container_resources={"limits": {"memory": "2Gi"}},
        parent_run_key="sweep__r",
    )
    assert plan == RetryPlan(7, "batch", "ondemand", 3, "cpu", 600)
    assert timeouts == {"queue": 86400, "startup": 3600}


def test_a_deploy_goes_on_with_all_its_arguments(identity: TaskIdentity) -> None:
    trigger = made_again("trainyard.deploy_trigger.DeployModelTrigger", identity)
    run = trigger._deploy_run(None, "3")
    assert run.request == DeployRequest("digits", "3", 2, None)
    assert run.timeout_seconds == 600
    assert trigger.reads() == ["models:/digits/3"]


class Jobs:
    """What the trigger asks of a cluster in which its Job succeeds at once; cron_job/ has the real client."""

    namespace = "ml-platform"

    def __init__(self) -> None:
        container = {"name": "backup", "env": [{"name": "DRY_RUN", "value": "false"}]}
        template = {"spec": {"template": {"spec": {"containers": [container]}}}}
        self.found = {"metadata": {"name": "backup", "uid": "u"}, "spec": {"jobTemplate": template}}
        self.created: list[dict[str, Any]] = []

    async def __aenter__(self) -> Jobs:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def cron_job(self, name: str) -> Any:
        return self.found if name == "backup" else None

    async def create_job(self, job: dict[str, Any]) -> dict[str, Any]:
        self.created.append(job)
        return job

    async def job(self, name: str) -> dict[str, Any]:
        return {
            "metadata": {"name": name},
            "status": {"conditions": [{"type": "Complete", "status": "True"}]},
        }

    async def find(self, selector: str) -> list[Any]:
        return []


def test_a_cron_job_goes_on_with_all_its_arguments(identity: TaskIdentity) -> None:
    trigger, jobs = made_again("trainyard.cron_job_trigger.CronJobTrigger", identity), Jobs()
    assert trigger.connect().namespace == "ml-platform"
    trigger.connect = lambda: jobs
    assert asyncio.run(trigger.work()) == {"job": jobs.created[0]["metadata"]["name"]}
    assert jobs.created == [job_from(jobs.found, identity, {"DRY_RUN": "true"})]
