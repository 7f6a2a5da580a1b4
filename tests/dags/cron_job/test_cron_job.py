"""`RunCronJobOperator`: the Job that it creates and how the Job ends, on an API server over HTTP."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import kubernetes_validate
import pytest
from aiohttp import web
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent, TriggerEvent
from api_server import status
from events import is_final_failure
from kubernetes_asyncio.client import ApiClient, Configuration
from trainyard.cron_job import trigger as cron_job_trigger
from trainyard.cron_job.operator import TRIGGER, RunCronJobOperator
from trainyard.cron_job.trigger import CronJobTrigger, job_from
from trainyard.failures import Cause
from trainyard.kube.jobs import JobKube
from trainyard.naming import TaskIdentity
from trainyard_cli.versions import VERSIONS

CRON_JOB: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "CronJob",
    "metadata": {"name": "cleanup", "uid": "u-1"},
    "spec": {
        "schedule": "0 0 * * 0",
        "suspend": True,
        "jobTemplate": {
            "metadata": {"labels": {"app": "cleanup"}},
            "spec": {
                "backoffLimit": 0,
                "template": {
                    "spec": {
                        "restartPolicy": "Never",
                        "containers": [
                            {
                                "name": "cleaner",
                                "image": "airflow",
                                "env": [
                                    {"name": "RETENTION_DAYS", "value": "90"},
                                    {"name": "DRY_RUN", "value": "false"},
                                ],
                            }
                        ],
                    }
                },
            },
        },
    },
}
DONE = [{"type": "Complete", "status": "True"}]
FAILED = [{"type": "Failed", "status": "True", "message": "Job has reached the specified backoff limit"}]


class Cluster:
    """One CronJob, and Jobs of one pod each; each request for a Job gets the next of `states`."""

    def __init__(self, *states: list[dict[str, str]], cron_job: dict[str, Any] | None = CRON_JOB) -> None:
        self.cron_job = cron_job
        self.states = [*states]
        self.created: list[dict[str, Any]] = []
        self.log = ["2026-11-21T07:00:00Z first", "2026-11-21T07:00:01Z second"]

    @asynccontextmanager
    async def serve(self) -> Any:
        """Serve on a free port; yields its URL."""
        app, base = web.Application(), "/apis/batch/v1/namespaces/trainyard"
        app.router.add_get(f"{base}/cronjobs/{{name}}", self._cron_job)
        app.router.add_post(f"{base}/jobs", self._create)
        app.router.add_get(f"{base}/jobs/{{name}}", self._job)
        app.router.add_get("/api/v1/namespaces/trainyard/pods", self._pods)
        app.router.add_get("/api/v1/namespaces/trainyard/pods/{name}/log", self._log)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield "http://{}:{}".format(*runner.addresses[0][:2])
        finally:
            await runner.cleanup()

    async def _cron_job(self, request: web.Request) -> web.Response:
        return web.json_response(self.cron_job) if self.cron_job else status(404, "NotFound", "none")

    async def _create(self, request: web.Request) -> web.Response:
        job = await request.json()
        if job["metadata"]["name"] in [one["metadata"]["name"] for one in self.created]:
            return status(409, "AlreadyExists", "it exists")
        self.created.append(job)
        return web.json_response(job, status=201)

    async def _job(self, request: web.Request) -> web.Response:
        conditions = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return web.json_response({**self.created[-1], "status": {"conditions": conditions}})

    async def _pods(self, request: web.Request) -> web.Response:
        job = self.created[-1]["metadata"]["name"]
        assert request.query["labelSelector"] == f"batch.kubernetes.io/job-name={job}"
        ended = {"exitCode": 1, "message": "RuntimeError: no database", "reason": "Error"}
        failed = {
            "phase": "Failed",
            "containerStatuses": [{"name": "cleaner", "state": {"terminated": ended}}],
        }
        return web.json_response({"items": [{"metadata": {"name": f"{job}-x"}, "status": failed}]})

    async def _log(self, request: web.Request) -> web.Response:
        assert request.query["container"] == "cleaner"
        return web.Response(text="\n".join(self.log) + "\n")


class Trigger(CronJobTrigger):
    """The trigger under test, connected to `url`; it keeps its XComs."""

    url = ""

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__(request)
        self.xcoms: dict[str, Any] = {}

    def connect(self) -> JobKube:
        class LocalKube(JobKube):
            async def __aenter__(self) -> LocalKube:
                self._api = ApiClient(Configuration(host=Trigger.url))
                return self

        return LocalKube(self.request["namespace"])

    async def push(self, xcoms: Mapping[str, Any], mapped_length: int | None = None) -> None:
        self.xcoms |= xcoms


@pytest.fixture
def operator() -> RunCronJobOperator:
    with DAG("maintenance", schedule=None, start_date=datetime(2026, 1, 1)):
        return RunCronJobOperator(
            task_id="clean",
            namespace="trainyard",
            cron_job="cleanup",
            env={"RETENTION_DAYS": "{{ params.days }}", "DRY_RUN": None},
            deadline=timedelta(seconds=1),
            retries=2,
        )


def run(
    cluster: Cluster, operator: RunCronJobOperator, monkeypatch: pytest.MonkeyPatch, days: Any = 7
) -> tuple[TriggerEvent, dict[str, Any]]:
    """The event that ends a try of the task, and its XComs."""
    monkeypatch.setattr(cron_job_trigger, "POLL_SECONDS", 0.01)
    assert operator.start_trigger_args.trigger_cls == TRIGGER
    trigger = Trigger(**operator.start_trigger_args.trigger_kwargs)
    ti = SimpleNamespace(
        dag_id="maintenance", run_id="r", task_id="clean", map_index=-1, try_number=1, id=uuid4()
    )
    ti.task = DagSerialization.from_dict(DagSerialization.to_dict(operator.dag)).get_task("clean")
    trigger.task_instance = ti
    trigger.render_template_fields({"ti": ti, "params": {"days": days}})

    async def events() -> list[TriggerEvent]:
        async with cluster.serve() as url:
            Trigger.url = url
            return [event async for event in trigger.run()]

    (event,) = asyncio.run(events())
    return event, trigger.xcoms


def test_a_job_is_made_of_the_template(identity: TaskIdentity) -> None:
    before = copy.deepcopy(CRON_JOB)
    job = job_from(CRON_JOB, identity, {"RETENTION_DAYS": 7, "DRY_RUN": None})
    assert before == CRON_JOB
    kubernetes_validate.validate(job, VERSIONS.kubernetes_minor, strict=True)
    metadata = job["metadata"]
    assert metadata["labels"] == {"app": "cleanup"}
    assert metadata["annotations"] == {"cronjob.kubernetes.io/instantiate": "manual"}
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("CronJob", "cleanup", "u-1")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [
        {"name": "RETENTION_DAYS", "value": "7"},
        {"name": "DRY_RUN", "value": "false"},
    ]
    assert job_from(CRON_JOB, identity, {})["metadata"]["name"] == metadata["name"]


def test_a_job_that_ends_well(operator: RunCronJobOperator, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster([], [], DONE)
    event, xcoms = run(cluster, operator, monkeypatch)
    assert isinstance(event, TaskSuccessEvent)
    (job,) = cluster.created
    assert xcoms["job"] == job["metadata"]["name"]
    assert job["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] == "7"


def test_its_log_is_the_tasks_once(
    operator: RunCronJobOperator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(Cluster([], [], DONE), operator, monkeypatch)
    said = [line for line in capsys.readouterr().out.splitlines() if "Trigger]" in line]
    assert [line.split()[3] for line in said][1:] == ["first", "second"]


def test_a_restarted_triggerer_finds_its_job(
    operator: RunCronJobOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster([], DONE)
    run(cluster, operator, monkeypatch)
    event, _ = run(cluster, operator, monkeypatch)
    assert isinstance(event, TaskSuccessEvent)
    assert len(cluster.created) == 1


def test_a_job_that_fails_says_why_and_may_be_tried_again(
    operator: RunCronJobOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    event, xcoms = run(Cluster([], FAILED), operator, monkeypatch)
    assert isinstance(event, TaskFailedEvent)
    assert "backoff limit: RuntimeError: no database" in xcoms["failure"]["message"]


def test_a_job_that_takes_too_long(operator: RunCronJobOperator, monkeypatch: pytest.MonkeyPatch) -> None:
    event, xcoms = run(Cluster([]), operator, monkeypatch)
    assert isinstance(event, TaskFailedEvent)
    assert xcoms["failure"]["cause"] == Cause.DEADLINE


@pytest.mark.parametrize(
    ("cron_job", "message"),
    [(None, "there is no CronJob trainyard/cleanup"), ({}, "has no variable RETENTION_DAYS")],
)
def test_what_no_other_try_cures(
    operator: RunCronJobOperator, monkeypatch: pytest.MonkeyPatch, cron_job: Any, message: str
) -> None:
    if cron_job is not None:
        cron_job = copy.deepcopy(CRON_JOB)
        del cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["env"]
    event, xcoms = run(Cluster([], cron_job=cron_job), operator, monkeypatch)
    assert message in xcoms["failure"]["message"]
    assert is_final_failure(event) and xcoms["failure"]["cause"] == Cause.BAD_CONFIG
