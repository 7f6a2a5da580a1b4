"""`JobRun` against an API server over HTTP: the outcome of a try for each way in which its pods can end."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest
from api_server import ApiServer, Pod
from trainyard.failures import Cause
from trainyard.naming import LABEL_PREFIX, OLDER_TRY, TRY, TaskIdentity
from trainyard.platform import Platform, Team
from trainyard.training import attempt_pods, attempt_run, job_run, start
from trainyard.training.attempt import Attempt, RetryPlan
from trainyard.training.job import build_job
from trainyard.training.job_run import JobRun
from trainyard.training.outcomes import Outcome
from trainyard.training.pod import TrainingRequest, build_pod
from trainyard.training.shared import Shared

GPU = "nvidia.com/gpu"
NO_GPU = (
    f"0/4 nodes are available: 2 Insufficient {GPU}, 2 node(s) didn't match Pod's node affinity/selector."
)
UNSCHEDULABLE = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": NO_GPU}]
QUOTA = (
    "exceeded quota: q, requested: requests.nvidia.com/gpu=1, "
    "used: requests.nvidia.com/gpu=3, limited: requests.nvidia.com/gpu=3"
)
DONE = '{"f1": 0.9}'


@dataclass
class Story:
    """What a try did."""

    outcome: Outcome
    server: ApiServer
    run: JobRun
    xcoms: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)

    @property
    def attempts(self) -> list[Attempt]:
        return [Attempt.of_pod(pod) for pod in self.server.created]

    def pushed(self, key: str) -> list[Any]:
        return [each[key] for each in self.xcoms if key in each]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between attempts."""
    monkeypatch.setattr(job_run, "RELAUNCH_SECONDS", 0)
    monkeypatch.setattr(attempt_run, "EXPLAIN_SECONDS", 1)
    for module in (attempt_pods, attempt_run, start):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.05)


@pytest.fixture
def play(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> Callable[..., Story]:
    """Runs a try. Each of `fates` decides what happens to one pod; `before` prepares the server.

    `when_told` is what happens to a pod once the try has told why it waits.
    """

    def _play(
        *fates: Callable[..., Any],
        before: Callable[[ApiServer], Any] | None = None,
        when_told: Callable[..., Any] | None = None,
        queue_seconds: int = 10**9,
        startup_seconds: int = 10**9,
        nodes: int = 1,
        queue: str = "",
        teams: Mapping[str, Team] = MappingProxyType({}),
        **plan: Any,
    ) -> Story:
        turns = iter(fates)

        async def fate(server: ApiServer, pod: Pod) -> None:
            await next(turns)(server, pod["metadata"]["name"])

        async def tell() -> Story:
            server, xcoms, alerts = ApiServer(fate), [], []
            if before:
                before(server)

            async def announce(values: dict[str, Any]) -> None:
                xcoms.append(dict(values))
                pending = values.get("pending", {"resolved": True})
                if when_told and not pending["resolved"]:
                    await when_told(server, pending["pod"])

            async def alert(title: str, text: str, details: Any) -> None:
                alerts.append(f"{title}: {text}")

            async with server.serve() as kube:
                queued = {name: replace(pool, queue=queue) for name, pool in platform.pools.items()}
                shared = Shared(
                    kube,
                    replace(platform, pools=queued, teams=teams),
                    replace(request_for_train, gpu_pool="spot", nodes=nodes),
                    identity,
                    logging.getLogger("test"),
                    plan=RetryPlan(**plan),
                    queue_seconds=queue_seconds,
                    startup_seconds=startup_seconds,
                    announce=announce,
                )
                run = JobRun(shared, alert)
                return Story(await run.run(), server, run, xcoms, alerts)

        return asyncio.run(asyncio.wait_for(tell(), 120))

    return _play


async def succeeds(server: ApiServer, name: str) -> None:
    await server.run(name, exit_code=0, message=DONE)


async def out_of_memory(server: ApiServer, name: str) -> None:
    await server.run(name, exit_code=137, reason="OOMKilled")


async def reclaimed(server: ApiServer, name: str) -> None:
    await server.run(name, exit_code=143)


async def drained_before_it_started(server: ApiServer, name: str) -> None:
    await server.change(name, conditions=UNSCHEDULABLE)
    asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(server.vanish(name)))


async def gets_no_gpu(server: ApiServer, name: str) -> None:
    await server.change(name, conditions=UNSCHEDULABLE)


def test_memory_that_runs_out_is_doubled_once(play: Callable[..., Story]) -> None:
    story = play(out_of_memory, succeeds)
    assert story.outcome.cause is Cause.SUCCESS
    limits = [pod["spec"]["containers"][0]["resources"]["limits"]["memory"] for pod in story.server.created]
    assert limits == ["2Gi", "4Gi"]
    assert len(story.server.pods) == 2, "a restarted triggerer finds out the same"


def test_what_killed_a_container_may_be_told_after_its_end(play: Callable[..., Story]) -> None:
    """A training that ran out of memory was tried again with the same memory on a busy node."""

    async def out_of_memory_as_is_told_later(server: ApiServer, name: str) -> None:
        await server.run(name, exit_code=137)
        asyncio.get_running_loop().call_later(0.2, lambda: asyncio.ensure_future(out_of_memory(server, name)))

    story = play(out_of_memory_as_is_told_later, succeeds)
    assert story.outcome.cause is Cause.SUCCESS
    assert [attempt.memory_factor for attempt in story.attempts] == [1, 2]


def test_memory_that_runs_out_again_fails_and_says_what_was_tried(play: Callable[..., Story]) -> None:
    story = play(out_of_memory, out_of_memory, on_oom="batch")
    assert story.outcome.cause is Cause.OOM
    assert "batches in 2 parts did not suffice" in story.outcome.message
    failure = story.run.failure(story.outcome)
    assert (failure["attempts"], failure["node"]) == (2, "node-1")
    assert failure["pod"] == story.server.created[1]["metadata"]["name"]
    assert failure["log"] == [f"log of {pod['metadata']['name']}" for pod in story.server.created]


def test_a_bigger_pod_that_is_refused_ends_as_out_of_memory(play: Callable[..., Story]) -> None:
    async def ends_and_fills(server: ApiServer, name: str) -> None:
        server.refusals = ["maximum memory usage per Container is 3Gi"]
        await out_of_memory(server, name)

    story = play(ends_and_fills)
    assert story.outcome.cause is Cause.OOM
    assert "a pod with more was refused: pods " in story.outcome.message
    assert "is forbidden: maximum memory usage per Container is 3Gi" in story.outcome.message


def test_a_bigger_pod_that_fits_no_node_ends_as_out_of_memory(
    play: Callable[..., Story], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fits_nowhere(server: ApiServer, name: str) -> None:
        message = "0/1 nodes are available: 1 Insufficient memory. preemption: 1 Preemption is not helpful"
        await server.change(name, conditions=[{**UNSCHEDULABLE[0], "message": message}])

    monkeypatch.setattr(start, "TOO_LARGE_SECONDS", 0)
    story = play(out_of_memory, fits_nowhere)
    assert (story.outcome.cause, len(story.attempts)) == (Cause.OOM, 2)
    assert "no node has the 1024Mi that the next attempt requests" in story.outcome.message


def test_a_broken_gpu_is_left_for_another_node(play: Callable[..., Story]) -> None:
    async def breaks(server: ApiServer, name: str) -> None:
        await server.run(name, exit_code=70, message='{"error": "CUDA error: uncorrectable ECC error"}')

    story = play(breaks, succeeds)
    assert story.outcome.cause is Cause.SUCCESS
    assert [attempt.avoided for attempt in story.attempts] == [(), ("node-1",)]


@pytest.mark.parametrize(
    "unanswered",
    [math.inf, 0, 2],
    ids=["a node that is gone", "a node that was tainted", "a restart of the API"],
)
def test_only_a_node_that_is_gone_costs_the_grace_period(
    play: Callable[..., Story],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    unanswered: float,
) -> None:
    """Kubernetes deletes the pods of both in the same way."""

    async def deleted_for_a_taint(server: ApiServer, name: str) -> None:
        server.unanswered = unanswered
        conditions = [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]
        running = [{"name": "trainer", "state": {"running": {}}}]
        end = datetime.now(UTC) + timedelta(seconds=15)
        deleted = {"deletionTimestamp": end.isoformat(), "deletionGracePeriodSeconds": 60}
        server.pods[name]["metadata"] |= deleted
        await server.change(
            name, node="node-1", phase="Running", conditions=conditions, containerStatuses=running
        )
        if answers:
            asyncio.get_running_loop().call_later(0.4, lambda: asyncio.ensure_future(reclaimed(server, name)))

    async def succeeds_elsewhere(server: ApiServer, name: str) -> None:
        server.unanswered = 0
        await succeeds(server, name)

    answers = unanswered < math.inf
    monkeypatch.setattr("trainyard.kube.client.NODE_SECONDS", 30 if answers else 0.3)
    monkeypatch.setattr("trainyard.kube.client.NODE_PAUSE_SECONDS", 0.02)
    caplog.set_level(logging.INFO)
    story = play(deleted_for_a_taint, succeeds_elsewhere)
    assert story.outcome.cause is Cause.SUCCESS
    assert len(story.attempts) == 2
    assert ("node node-1 does not respond" in caplog.text) is not answers


def test_reclaims_escalate_to_another_pool(play: Callable[..., Story]) -> None:
    story = play(reclaimed, drained_before_it_started, succeeds, escalate_to="ondemand")
    assert [attempt.gpu_pool for attempt in story.attempts] == ["spot", "spot", "ondemand"]
    assert story.outcome.cause is Cause.SUCCESS


def test_reclaims_have_an_end(play: Callable[..., Story]) -> None:
    story = play(reclaimed, reclaimed, max_preemptions=1)
    assert story.outcome.cause is Cause.PREEMPTED
    assert len(story.attempts) == 2


def test_a_job_that_somebody_deletes_is_made_anew(play: Callable[..., Story]) -> None:
    async def is_deleted(server: ApiServer, name: str) -> None:
        server.jobs.clear()
        await server.vanish(name)

    story = play(is_deleted, succeeds)
    assert story.outcome.cause is Cause.SUCCESS
    assert [attempt.reclaims for attempt in story.attempts] == [0, 1]


def test_one_node_of_several_that_fails_ends_the_others_and_tells_why(play: Callable[..., Story]) -> None:
    async def runs(server: ApiServer, name: str) -> None:
        running = [{"name": "trainer", "state": {"running": {}}}]
        await server.change(name, node="node-0", phase="Running", containerStatuses=running)

    async def has_bad_data(server: ApiServer, name: str) -> None:
        await server.run(name, exit_code=65, message='{"error": "no rows"}')

    story = play(runs, has_bad_data, nodes=2)
    assert (story.outcome.cause, len(story.attempts)) == (Cause.BAD_DATA, 2)
    assert story.outcome.message.startswith("rank 1 of 2: ") and "no rows" in story.outcome.message
    failure = story.run.failure(story.outcome)
    assert (failure["pod"], failure["node"]) == (story.server.created[1]["metadata"]["name"], "node-1")
    assert len(story.server.pods) == 1, "rank 0 was ended"


def test_a_gang_that_holds_a_part_of_its_gpus_starts_in_time_or_never(play: Callable[..., Story]) -> None:
    """Two of them, without a queue, would else wait for each other for a day."""

    async def gets_a_node(server: ApiServer, name: str) -> None:
        await server.change(name, node="node-0")

    story = play(gets_a_node, gets_no_gpu, nodes=2, startup_seconds=-1)
    assert story.outcome.cause is Cause.UNSCHEDULABLE
    assert "not started within -1 s: 1 of 2 pods have a node; rank 1: no GPU free" in story.outcome.message
    story = play(gets_no_gpu, gets_no_gpu, nodes=2, startup_seconds=-1, queue_seconds=-2)
    assert "not started within -2 s: 0 of 2 pods have a node; rank 0: no GPU free" in story.outcome.message


def test_without_a_gpu_the_cpu_takes_over_and_people_hear_of_it(play: Callable[..., Story]) -> None:
    story = play(gets_no_gpu, succeeds, fallback="cpu")  # the pod is older than fallback_after already
    assert story.outcome.cause is Cause.SUCCESS
    assert [attempt.fallback for attempt in story.attempts] == ["", "cpu"]
    assert story.server.alive_at_once == 1, "two pods must never write the same checkpoints"
    (fallback,) = story.pushed("fallback")
    assert (fallback["to"], fallback["pool"]) == ("cpu", "spot")
    (alert,) = story.alerts
    assert "continues without a GPU" in alert and "no GPU free in pool spot" in alert


def test_a_gpu_that_comes_while_it_is_given_up_is_taken(play: Callable[..., Story]) -> None:
    async def gets_one_at_the_last_moment(server: ApiServer, name: str) -> None:
        await server.change(name, conditions=UNSCHEDULABLE)
        server.before_deletion = lambda: server.run(name, exit_code=0, message=DONE)

    story = play(gets_one_at_the_last_moment, fallback="cpu")
    assert [attempt.fallback for attempt in story.attempts] == [""]
    assert story.pushed("fallback") == []


def test_the_reason_for_waiting_is_told_at_once_and_resolved(play: Callable[..., Story]) -> None:
    story = play(gets_no_gpu, when_told=succeeds)
    waiting, resolved = story.pushed("pending")
    assert waiting["kind"] == resolved["kind"] == "gpu"
    assert waiting["reason"].startswith("no GPU free in pool spot: 2 of 2 nodes are busy (0/4 nodes")
    assert (waiting["resolved"], resolved["resolved"]) == (False, True)
    assert resolved["waited_seconds"] > 0
    assert resolved["pod"] == story.server.created[0]["metadata"]["name"]


def test_an_image_that_is_not_there_is_told_once(play: Callable[..., Story]) -> None:
    async def cannot_pull(server: ApiServer, name: str, reason: str = "ErrImagePull") -> None:
        state = {"waiting": {"reason": reason, "message": f"{reason} text"}}
        await server.change(name, node="n", containerStatuses=[{"name": "trainer", "state": state}])

    async def flap(server: ApiServer, name: str) -> None:
        for reason in ("ImagePullBackOff", "ErrImagePull", "InvalidImageName"):
            await asyncio.sleep(0.1)
            await cannot_pull(server, name, reason)

    flapping: list[asyncio.Task[None]] = []

    async def begins_to_flap(server: ApiServer, name: str) -> None:
        flapping.append(asyncio.create_task(flap(server, name)))

    story = play(cannot_pull, when_told=begins_to_flap)
    assert story.outcome.cause is Cause.IMAGE
    told = [pending["kind"] for pending in story.pushed("pending")]
    assert told.count("image") == 1


def queued(server: ApiServer, name: str, message: str, **conditions: dict[str, str]) -> None:
    """Has Kueue say why a Job waits."""
    told = {"QuotaReserved": {"status": "False", "reason": "Pending", "message": message}, **conditions}
    limits = {"resources": {"limits": {GPU: "1"}}}
    server.workloads = [
        {
            "metadata": {
                "name": "w",
                "labels": {"kueue.x-k8s.io/job-uid": server.jobs[name]["metadata"]["uid"]},
                "creationTimestamp": "2026-11-21T07:00:00Z",
            },
            "spec": {
                "queueName": "spot",
                "podSets": [{"count": 1, "template": {"spec": {"containers": [limits]}}}],
            },
            "status": {"conditions": [{"type": kind, **each} for kind, each in told.items()]},
        }
    ]


WAITS = "insufficient unused quota for nvidia.com/gpu in flavor spot, 1 more needed"


async def is_admitted(server: ApiServer, job: str) -> None:
    await server.suspend(job, False)


def test_a_queued_job_tells_its_place_and_starts_when_it_is_admitted(play: Callable[..., Story]) -> None:
    story = play(succeeds, queue="spot", when_told=is_admitted, startup_seconds=-1)
    assert story.outcome.cause is Cause.SUCCESS
    (job,) = story.server.jobs.values()
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "spot"
    waiting, resolved = story.pushed("pending")
    assert (waiting["kind"], waiting["pod"]) == ("queue", job["metadata"]["name"])
    assert resolved["resolved"]


def test_a_preempted_job_comes_back_and_is_no_attempt(play: Callable[..., Story]) -> None:
    told: list[str] = []

    async def runs_and_is_preempted(server: ApiServer, name: str) -> None:
        running = [{"name": "trainer", "state": {"running": {}}}]
        await server.change(name, node="node-1", phase="Running", containerStatuses=running)
        (job,) = server.jobs
        evicted = {"status": "True", "reason": "Preempted"}
        queued(server, job, WAITS, Evicted=evicted, Preempted={"status": "True", "reason": "InClusterQueue"})
        asyncio.get_running_loop().call_later(0.3, lambda: asyncio.ensure_future(server.suspend(job, True)))

    async def admitted(server: ApiServer, job: str) -> None:
        told.append(job)
        await server.suspend(job, False)

    story = play(runs_and_is_preempted, succeeds, queue="spot", when_told=admitted, max_preemptions=0)
    assert story.outcome.cause is Cause.SUCCESS
    assert [attempt.number for attempt in story.attempts] == [1, 1]
    assert len(told) == 2 and told[0] == told[1], "the same Job waited twice"
    assert story.run.failure(story.outcome)["preemptions"] == 1
    reasons = [pending["reason"] for pending in story.pushed("pending") if not pending["resolved"]]
    told_why = "0 of 1 GPUs free in pool spot; position 1 of 1; a Job of higher priority took its GPUs"
    assert reasons[1].startswith(told_why)


def test_a_job_of_a_queue_that_is_no_more_is_made_anew(
    play: Callable[..., Story], left_behind: Callable[..., Any]
) -> None:
    def before(server: ApiServer) -> None:
        left_behind(Attempt(1, "spot"))(server)
        server.pods.clear()
        (job,) = server.jobs.values()
        job["spec"]["suspend"], job["status"] = True, {}

    story = play(succeeds, before=before)
    assert story.outcome.cause is Cause.SUCCESS
    assert len(story.attempts) == 1


def test_what_no_queue_can_ever_admit_is_not_queued(play: Callable[..., Story]) -> None:
    """It would be the head of the queue for ever."""
    story = play(queue="spot", nodes=3)
    assert (story.outcome.cause, story.server.jobs) == (Cause.BAD_CONFIG, {})
    assert "it asks for 3 GPUs of pool spot, which has 1 (gpuPools.spot.nodes.max)" in story.outcome.message


VISION = {"vision": Team("vision", "ml-vision", ("digits_*",))}


def admitted_after(message: str) -> Callable[[ApiServer, str], Awaitable[None]]:
    """Kueue says `message` of a Job, and admits it when the Job is looked at again."""

    async def tell(server: ApiServer, job: str) -> None:
        if server.workloads:
            await server.suspend(job, False)
        queued(server, job, message)

    return tell


def test_a_team_that_waits_is_named(play: Callable[..., Story], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "QUEUE_POLL_SECONDS", 0.05)

    story = play(succeeds, queue="spot", when_told=admitted_after(WAITS), teams=VISION)
    assert story.outcome.cause is Cause.SUCCESS
    reasons = [pending["reason"] for pending in story.pushed("pending")]
    assert f"0 of 1 GPUs free in pool spot for team vision; position 1 of 1 ({WAITS})" in reasons


@pytest.mark.parametrize("fallback", [None, "cpu"])
def test_what_the_team_may_never_have_is_not_waited_for(
    play: Callable[..., Story], monkeypatch: pytest.MonkeyPatch, fallback: str | None
) -> None:
    """The pool has so many GPUs, but the team may not borrow."""
    monkeypatch.setattr(start, "QUEUE_POLL_SECONDS", 0.05)
    monkeypatch.setattr(start, "UNCLEAR_POLL_SECONDS", (0.05, 0.05))

    async def says_never(server: ApiServer, job: str) -> None:
        queued(server, job, f"{WAITS.partition(',')[0]}, request > maximum capacity (0)")

    plan = {"fallback": fallback, "fallback_after_seconds": 10**9}
    story = play(queue="spot", when_told=says_never, teams=VISION, **plan)
    assert (story.outcome.cause, story.attempts) == (Cause.BAD_CONFIG, [])
    assert "it asks for 1 GPUs of pool spot, of which team vision may have 0 at most" in story.outcome.message


def test_a_queue_whose_quota_changes_is_looked_at_again(
    play: Callable[..., Story], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has none for a moment, as when a list of pools gets another member."""
    monkeypatch.setattr(start, "QUEUE_POLL_SECONDS", 0.05)
    monkeypatch.setattr(start, "UNCLEAR_POLL_SECONDS", (0.05, 20))
    never = f"{WAITS.partition(',')[0]}, request > maximum capacity (0)"

    story = play(succeeds, queue="spot", when_told=admitted_after(never), teams=VISION)
    assert story.outcome.cause is Cause.SUCCESS
    assert any(never in pending["reason"] for pending in story.pushed("pending"))


def test_a_cpu_takes_over_from_the_queue(play: Callable[..., Story]) -> None:
    story = play(succeeds, queue="spot", fallback="cpu")
    assert story.outcome.cause is Cause.SUCCESS
    assert [attempt.fallback for attempt in story.attempts] == ["cpu"]
    (job,) = story.server.jobs.values()
    assert "kueue.x-k8s.io/queue-name" not in job["metadata"]["labels"]


def test_a_job_that_is_admitted_while_it_is_given_up_runs(play: Callable[..., Story]) -> None:
    async def is_admitted_at_the_last_moment(server: ApiServer) -> None:
        await server.suspend(next(iter(server.jobs)), False)

    def before(server: ApiServer) -> None:
        server.before_deletion = lambda: is_admitted_at_the_last_moment(server)

    story = play(succeeds, queue="spot", fallback="cpu", before=before)
    assert [attempt.fallback for attempt in story.attempts] == [""]
    assert story.outcome.cause is Cause.SUCCESS


def test_a_quota_that_is_full_is_told_and_tried_again(play: Callable[..., Story]) -> None:
    story = play(succeeds, before=lambda server: server.refusals.extend([QUOTA] * 2))
    assert story.outcome.cause is Cause.SUCCESS
    assert story.pushed("pending")[0]["kind"] == "quota"
    assert len(story.attempts) == 1


def test_queueing_is_not_starting(play: Callable[..., Story]) -> None:
    story = play(succeeds, before=lambda server: server.refusals.extend([QUOTA] * 2), startup_seconds=0)
    assert story.outcome.cause is Cause.SUCCESS
    story = play(before=lambda server: server.refusals.extend([QUOTA] * 20), queue_seconds=0)
    assert story.outcome.cause is Cause.UNSCHEDULABLE
    assert "not started within 0 s: no GPU left in quota q" in story.outcome.message


def test_waiting_for_a_gpu_is_not_starting(play: Callable[..., Story]) -> None:
    story = play(gets_no_gpu, when_told=succeeds, startup_seconds=-1)
    assert story.outcome.cause is Cause.SUCCESS
    story = play(gets_no_gpu, queue_seconds=-1)
    assert story.outcome.cause is Cause.UNSCHEDULABLE
    assert "not started within -1 s: no GPU free in pool spot" in story.outcome.message


@pytest.mark.parametrize(("minutes", "cause"), [(1, Cause.SUCCESS), (9, Cause.UNSCHEDULABLE)])
def test_a_pod_starts_when_it_has_its_node(play: Callable[..., Story], minutes: int, cause: Cause) -> None:
    """It was created long before."""

    async def gets_its_node(server: ApiServer, name: str) -> None:
        moment = datetime.now(UTC) - timedelta(minutes=minutes)
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": moment.isoformat()}
        await server.change(name, node="n", conditions=[scheduled])

    story = play(gets_its_node, when_told=succeeds, startup_seconds=300)
    assert story.outcome.cause is cause


def test_a_refused_pod_fails_the_task(play: Callable[..., Story]) -> None:
    story = play(before=lambda server: server.refusals.append("violates PodSecurity"))
    assert (story.outcome.cause, story.attempts) == (Cause.BAD_CONFIG, [])


@pytest.fixture
def left_behind(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> Callable[..., Callable[[ApiServer], None]]:
    """Prepares a server with what an attempt has left that ran out of memory, with these labels instead.

    That is a Job with its pod, or as of older releases a pod `alone`.
    """

    def _left(attempt: Attempt, *, alone: bool = False, **labels: str | None) -> Callable[[ApiServer], None]:
        def prepare(server: ApiServer) -> None:
            pod = build_pod(platform, request_for_train, identity, attempt)
            meta = {"uid": "u", "resourceVersion": "u", "creationTimestamp": "2026-11-21T07:00:00Z"}
            told = dict(pod["metadata"]["labels"])
            if alone:
                told[OLDER_TRY] = told.pop(TRY)
            told |= {f"{LABEL_PREFIX}/{key}": labels[key] for key in labels}
            pod["metadata"] |= {**meta, "labels": {key: value for key, value in told.items() if value}}
            ended = {"exitCode": 137, "reason": "OOMKilled"}
            pod["status"] = {
                "phase": "Failed",
                "containerStatuses": [{"name": "trainer", "state": {"terminated": ended}}],
            }
            server.pods[pod["metadata"]["name"]] = pod
            if alone:
                return
            name = identity.job_name(attempt.number, 1)
            job = build_job(pod, name, nodes=1, gpus=1, waiting_seconds=60)
            failed = {"conditions": [{"type": "Failed", "status": "True"}]}
            server.jobs[name] = {**job, "status": failed}
            pod["metadata"]["ownerReferences"] = [{"kind": "Job", "name": name}]

        return prepare

    return _left


@pytest.mark.parametrize(
    "what",
    [{}, {"alone": True}, {"alone": True, "task-instance": None}],
    ids=["a Job", "an older release's pod", "a still older release's"],
)
def test_a_restarted_triggerer_goes_on_with_the_newest_attempt(
    play: Callable[..., Story], left_behind: Callable[..., Any], what: dict[str, Any]
) -> None:
    adapted = Attempt(3, "ondemand", memory_factor=2, reclaims=1, ooms=1)
    story = play(before=left_behind(adapted, **what))
    assert story.outcome.cause is Cause.OOM, "the retry with more memory has been used"
    assert story.attempts == []


@pytest.mark.parametrize("alone", [False, True], ids=["a Job", "an older release's pod"])
@pytest.mark.parametrize(
    "labels",
    [{"task-instance": "0198f5c6-0000-7000-8000-00000000dead"}, {"try": "7"}],
    ids=["a run of the same id that was deleted", "an earlier try"],
)
def test_the_pod_of_another_try_and_its_error_are_not_taken_over(
    play: Callable[..., Story], left_behind: Callable[..., Any], labels: dict[str, Any], alone: bool
) -> None:
    story = play(succeeds, before=left_behind(Attempt(1, "spot"), alone=alone, **labels))
    assert story.outcome.cause is Cause.SUCCESS
    assert [attempt.number for attempt in story.attempts] == [1]
    (pod,) = story.server.pods.values()
    assert pod["metadata"]["uid"] != "u"
