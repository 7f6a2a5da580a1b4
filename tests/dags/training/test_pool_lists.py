"""A training that names a list of pools: one Job for all of them, and Kueue chooses where it runs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer, Pod, kubeconfig
from conftest import PLATFORM_FILE
from kubernetes_asyncio.config import kube_config
from mlflow import MlflowClient
from told import Told, training_of, trigger_of
from trainyard.factory.spec import DocumentError, parse_spec
from trainyard.naming import TaskIdentity
from trainyard.params import pool_param
from trainyard.platform import Platform, PlatformError, load_platform
from trainyard.stock_operators.arguments import gpu_arguments
from trainyard.training import attempt_pods, attempt_run, kueue, start
from trainyard.training.attempt import Attempt
from trainyard.training.pod import RequestError, TrainingRequest, build_pod

LONG = timedelta(days=10_000)
GPU_POOL = "trainyard.gpu_pool"
IMAGE = "registry/trainer@sha256:1"
LISTS = {"cheapest": {"pools": ["spot", "ondemand"], "airflowPool": "gpu-cheapest", "queue": "cheapest"}}
MODEL = """
description: Digits
model: digits
data: sklearn://digits
schedule: "0 4 1 * *"
train: {pool: cheapest}
gate: {metric: f1_macro, minimum: 0.9}
"""


def written(directory: Path, lists: Any = None, **training: Any) -> Path:
    """The platform file, with lists of pools."""
    data = json.loads(PLATFORM_FILE.read_text())
    data["training"] |= training
    file = directory / "platform.json"
    file.write_text(json.dumps({**data, "poolLists": LISTS if lists is None else lists}))
    return file


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv("TRAINYARD_PLATFORM", str(written(tmp_path)))
    return load_platform()


@pytest.fixture
def request_of_list(request_for_train: TrainingRequest) -> TrainingRequest:
    return replace(request_for_train, gpu_pool="cheapest")


def test_a_list_is_what_holds_in_each_of_its_pools(listed: Platform) -> None:
    cheapest, spot, ondemand = (listed.pool(name) for name in ("cheapest", "spot", "ondemand"))
    assert cheapest.choices == (spot, ondemand)
    assert (cheapest.queue, cheapest.airflow_pool) == ("cheapest", "gpu-cheapest")
    assert (cheapest.node_selector, cheapest.tolerations) == ({}, ())
    assert cheapest.words == "pool spot or ondemand of list cheapest"
    assert (cheapest.most_gpus, cheapest.max_nodes) == (2, 1)
    assert cheapest.cost_per_gpu_hour == ondemand.cost_per_gpu_hour
    assert [cheapest.chosen(each.node_selector) for each in (spot, ondemand)] == [spot, ondemand]
    assert cheapest.chosen({}) is cheapest
    assert "cheapest" not in listed.pools
    assert load_platform(PLATFORM_FILE).pool_lists == {}, "an older chart's file"


@pytest.mark.parametrize("pools", [[], ["spot", "a100"]])
def test_a_list_of_other_pools_is_refused(tmp_path: Path, pools: list[str]) -> None:
    file = written(tmp_path, {"cheapest": {**LISTS["cheapest"], "pools": pools}})
    with pytest.raises(
        PlatformError, match=r"poolLists\.cheapest\.pools: expected GPU pools.*ondemand, spot"
    ):
        load_platform(file)


def test_its_pod_goes_to_no_pool_before_one_is_chosen(
    listed: Platform, request_of_list: TrainingRequest, identity: TaskIdentity
) -> None:
    pod = build_pod(listed, request_of_list, identity)
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    assert "nodeSelector" not in spec
    assert [each["key"] for each in spec["tolerations"]] == ["node.kubernetes.io/unreachable"]
    assert spec["priorityClassName"] == "trainyard-training", "it may have a GPU that is not spot"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert env["TRAINYARD_DEVICE"] == listed.training.gpu_device and "TRAINYARD_GPU_POOL" not in env
    assert Attempt.of_pod(pod).gpu_pool == "cheapest"


def test_spot_pools_alone_are_as_urgent_as_one(
    listed: Platform, request_of_list: TrainingRequest, identity: TaskIdentity
) -> None:
    spot = replace(listed.pool("cheapest"), spot=True)
    pod = build_pod(replace(listed, pool_lists={"cheapest": spot}), request_of_list, identity)
    assert pod["spec"]["priorityClassName"] == "trainyard-spot"


def test_a_pod_has_as_many_gpus_as_a_node_of_each_pool(
    listed: Platform, request_of_list: TrainingRequest, identity: TaskIdentity
) -> None:
    with pytest.raises(RequestError, match="gpus=2: a node of pool spot has 1"):
        build_pod(listed, replace(request_of_list, gpus=2), identity)


def test_nodes_are_avoided_where_each_pool_has_others(
    listed: Platform, request_of_list: TrainingRequest, identity: TaskIdentity
) -> None:
    attempt = Attempt(2, "cheapest", avoided=("node-1",))
    assert "affinity" not in build_pod(listed, request_of_list, identity, attempt)["spec"], (
        "spot has one node"
    )


def test_a_list_is_named_where_a_pool_is(listed: Platform) -> None:
    assert parse_spec(MODEL, "digits", listed).train.pool == "cheapest"
    with pytest.raises(DocumentError, match="2 GPUs, but a node of pool cheapest has 1"):
        parse_spec(MODEL.replace("cheapest}", "cheapest, gpus: 2}"), "digits", listed)
    assert pool_param(listed).schema["enum"] == ["cheapest", "ondemand", "spot"]
    with pytest.raises(PlatformError, match=r"no GPU pool 'cheap' \(there are: cheapest, ondemand, spot\)"):
        listed.pool("cheap")
    with pytest.raises(ValueError, match="cheapest is a list of pools, and only training is queued for"):
        gpu_arguments("cheapest")


# ---- what Kueue says

LACKS = "insufficient unused quota for nvidia.com/gpu in flavor {}, {} more needed"
NEVER = (
    "insufficient quota for nvidia.com/gpu in flavor {}, previously considered podsets requests (0) + "
    "current podset request (2) > maximum capacity ({})"
)
JOB = {"metadata": {"uid": "u1", "labels": {kueue.QUEUE: "cheapest"}}, "spec": {"suspend": True}}


def waits(*reasons: str) -> list[dict[str, Any]]:
    limits = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    message = f"couldn't assign flavors to pod set main: {', '.join(reasons)}"
    reserved = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": message}
    meta = {"name": "w", "labels": {kueue.JOB_UID: "u1"}, "creationTimestamp": "2026-11-28T08:00:00Z"}
    sets = [{"count": 2, "template": {"spec": {"containers": [limits]}}}]
    return [
        {
            "metadata": meta,
            "spec": {"queueName": "cheapest", "podSets": sets},
            "status": {"conditions": [reserved]},
        }
    ]


def test_the_pool_with_most_free_gpus_is_told(listed: Platform) -> None:
    found = waits(LACKS.format("ondemand", 1), LACKS.format("spot", 2))
    told = kueue.why_queued(JOB, found, listed.pool("cheapest").words).reason
    assert told.startswith("1 of 2 GPUs free in pool spot or ondemand of list cheapest; position 1 of 1 (")


def test_a_pool_that_is_too_small_is_no_end(listed: Platform) -> None:
    words = listed.pool("cheapest").words
    found = waits(NEVER.format("spot", 1), LACKS.format("ondemand", 1))
    assert kueue.why_never(JOB, found, words) == ""
    assert "1 of 2 GPUs free in pool spot or ondemand" in kueue.why_queued(JOB, found, words).reason


def test_what_is_too_much_for_each_pool_is_told(listed: Platform) -> None:
    found = waits(NEVER.format("ondemand", 1), NEVER.format("spot", 0))
    told = kueue.why_never(JOB, found, listed.pool("cheapest").words, "vision")
    says = "2 GPUs of pool spot or ondemand of list cheapest, of which team vision may have 1 at most"
    assert says in told


# ---- a try, from its trigger on


def listing(dag_id: str, **arguments: Any) -> Told:
    """The trigger of a training that names the list. The server's objects are old."""
    training = training_of(dag_id, "cheapest", queue_timeout=LONG, startup_timeout=LONG, **arguments)
    assert training.pool == "gpu-cheapest"
    return trigger_of(training)


class Kueue(ApiServer):
    """Admits each Job at once, to the pools in turn, and is asked to preempt it."""

    def __init__(self, fate: Any, *pools: str, pause: float = 0.3) -> None:
        super().__init__(fate)
        self.turns = iter(pools)
        self.pause = pause  # seconds between preemption and the next turn

    async def _create_job(self, request: Any) -> Any:
        answer = await super()._create_job(request)
        asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(self.admit()))
        return answer

    async def admit(self) -> None:
        for name, job in self.jobs.items():
            if job["spec"]["suspend"]:
                selector = {"trainyard.dev/pool": next(self.turns)}
                job["spec"]["template"]["spec"]["nodeSelector"] = selector
                await self.suspend(name, False)

    async def preempt(self) -> None:
        (name,) = self.jobs
        del self.jobs[name]["spec"]["template"]["spec"]["nodeSelector"]
        await self.suspend(name, True)
        asyncio.get_running_loop().call_later(self.pause, lambda: asyncio.ensure_future(self.admit()))


async def _succeeds(server: ApiServer, pod: Pod) -> None:
    await server.run(pod["metadata"]["name"], exit_code=0, message='{"f1": 0.9}')


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_uri: str) -> Any:
    """Runs the work of a trigger in a cluster with Kueue; its pods know an MLflow."""
    platform = written(tmp_path, trackingUri=mlflow_uri, trackingUiUrl="")
    monkeypatch.setenv("TRAINYARD_PLATFORM", str(platform))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for module in (attempt_pods, attempt_run, start):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr("trainyard.training.job_run.RELAUNCH_SECONDS", 0)
    # A tag is worth no delay, but here it is.
    monkeypatch.setattr("trainyard.training.links.MLFLOW_SECONDS", 60)

    def _train(server: Kueue, trigger: Told) -> None:
        async def work() -> None:
            async with server.serve() as kube:
                location = str(kubeconfig(kube, tmp_path))
                monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", location)
                assert await trigger.work() == {"f1": 0.9}

        asyncio.run(asyncio.wait_for(work(), 120))

    return _train


@pytest.fixture
def tags(client: MlflowClient) -> Any:
    """Makes the MLflow run of a training, as a trainer does; returns what reads its tags."""

    def _tags(trigger: Told) -> Any:
        experiment = client.create_experiment(trigger.identity.dag_id)
        run = client.create_run(experiment, tags={"trainyard.run_key": trigger.identity.run_key()})
        return lambda: client.get_run(run.info.run_id).data.tags

    return _tags


@pytest.mark.parametrize("pool", ["spot", "ondemand"])
def test_the_pool_that_it_got_is_recorded(train: Any, tags: Any, model: str, pool: str) -> None:
    trigger = listing(model)
    read = tags(trigger)
    train(server := Kueue(_succeeds, pool), trigger)
    (job,) = server.jobs.values()
    assert job["metadata"]["labels"][kueue.QUEUE] == "cheapest"
    assert trigger.pushed("gpu_pool") == [pool]
    assert read()[GPU_POOL] == pool


@pytest.mark.parametrize("pause", [0.3, 0.0], ids=["", "before it is looked at"])
def test_a_preempted_training_may_come_back_elsewhere(
    train: Any, tags: Any, model: str, pause: float
) -> None:
    seen: list[str] = []

    async def is_preempted_once(server: Kueue, pod: Pod) -> None:
        name = pod["metadata"]["name"]
        seen.append(name)
        running = [{"name": "trainer", "imageID": IMAGE, "state": {"running": {}}}]
        await server.change(name, node="node-1", phase="Running", containerStatuses=running)
        fates.append(asyncio.ensure_future(ends_once_it_is_seen_to_run(pod, len(seen))))

    async def ends_once_it_is_seen_to_run(pod: Pod, number: int) -> None:
        while len(trigger.pushed("gpu_pool")) < number:
            await asyncio.sleep(0.05)
        if number == 1:
            await server.preempt()
        else:
            await _succeeds(server, pod)

    fates: list[asyncio.Future[None]] = []
    trigger = listing(model, max_preemptions=0)
    read = tags(trigger)
    server = Kueue(is_preempted_once, "spot", "ondemand", pause=pause)
    train(server, trigger)
    assert trigger.pushed("gpu_pool") == ["spot", "ondemand"]
    assert (read()[GPU_POOL], read()["trainyard.image"]) == ("ondemand", IMAGE)
    assert {Attempt.of_pod(pod).number for pod in server.created} == {1}


def test_reclaims_escalate_from_a_list_to_a_pool(train: Any, tags: Any, model: str) -> None:
    async def is_reclaimed_once(server: Kueue, pod: Pod) -> None:
        if Attempt.of_pod(pod).number > 1:
            return await _succeeds(server, pod)
        await server.run(pod["metadata"]["name"], exit_code=143)

    trigger = listing(model, escalate_to="ondemand", escalate_after=1)
    read = tags(trigger)
    train(server := Kueue(is_reclaimed_once, "spot", "ondemand"), trigger)
    assert [Attempt.of_pod(pod).gpu_pool for pod in server.created] == ["cheapest", "ondemand"]
    assert trigger.pushed("gpu_pool") == ["spot", "ondemand"]
    assert read()[GPU_POOL] == "ondemand"


def test_what_no_pool_of_the_list_has_is_not_queued(train: Any, model: str) -> None:
    server, trigger = Kueue(_succeeds), listing(model, nodes=3)
    with pytest.raises(Exception, match=r"3 GPUs of pool spot or ondemand of list cheapest, which has 2 \("):
        train(server, trigger)
    assert server.jobs == {}
