"""Containers in place of pods, with a real Docker."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trainyard.failures import Cause
from trainyard.kube.client import KubeError
from trainyard.kube.logs import LogPosition
from trainyard.local.containers import Containers
from trainyard.naming import TaskIdentity
from trainyard.platform import load_platform
from trainyard.training import outcomes
from trainyard.training.job import build_job
from trainyard.training.pod import TrainingRequest, build_pod
from trainyard_cli import host, node_image

PLATFORM_FILE = Path(__file__).parents[1] / "platform.json"


@pytest.fixture(scope="module", autouse=True)
def on_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(host.docker()).parent}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(scope="module")
def image() -> str:
    """One that has a shell."""
    return node_image.base_image(SimpleNamespace(update=print))


def job(image: str, script: str, request_for_train: TrainingRequest, number: int = 1) -> dict[str, Any]:
    """A training's Job that runs a shell script."""
    task = TaskIdentity("local", f"r-{time.time_ns()}", "train", -1, number)
    made = build_pod(load_platform(PLATFORM_FILE), request_for_train, task)
    (container,) = made["spec"]["containers"]
    container |= {"image": image, "args": ["sh", "-c", script]}
    # A Secret, which this machine has not.
    for where, key in ((made["spec"], "volumes"), (container, "volumeMounts")):
        where[key] = [each for each in where[key] if each["name"] != "mlflow-login"]
    return build_job(made, made["metadata"]["name"], nodes=1, gpus=1, waiting_seconds=60)


def played(directory: Path, made: dict[str, Any]) -> tuple[list[str], outcomes.Outcome]:
    """What the container says, and how it ends."""

    async def play() -> tuple[list[str], outcomes.Outcome]:
        async with Containers(directory) as kube:
            name = (await kube.create_job(made))["metadata"]["name"]
            try:
                lines = [line async for line in kube.log_lines(name, LogPosition())]
                of_trainers, seen = "app.kubernetes.io/name=trainer", []

                def has_ended(pods: list[dict[str, Any]]) -> bool:
                    seen[:] = pods
                    return all(map(outcomes.has_ended, pods))

                await kube.watch(of_trainers, has_ended, 30)
                (pod,) = seen
                assert pod["metadata"]["name"] == name
                return lines, outcomes.classify(pod)
            finally:
                await kube.delete(name, force=True)
                assert await kube.get(name) is None

    return asyncio.run(play())


def test_a_step_writes_files_and_a_result(
    tmp_path: Path, image: str, request_for_train: TrainingRequest
) -> None:
    script = 'echo one; echo two >&2; echo x > /checkpoints/x; echo \'{"rows": 3}\' > "$TRAINYARD_RETURN"'
    lines, outcome = played(tmp_path, job(image, script, request_for_train))
    assert (sorted(lines), outcome.cause, outcome.result) == (["one", "two"], Cause.SUCCESS, {"rows": 3})
    assert (tmp_path / "volumes/checkpoints/x").read_text() == "x\n"
    assert not list((tmp_path / "pods").iterdir())


def test_a_step_that_fails_says_why(tmp_path: Path, image: str, request_for_train: TrainingRequest) -> None:
    _, outcome = played(tmp_path, job(image, "echo no rows; exit 65", request_for_train))
    assert outcome.cause is Cause.BAD_DATA
    assert "no rows" in outcome.message


def test_a_dataset_is_read_only_but_for_what_writes_it(
    tmp_path: Path, image: str, request_for_train: TrainingRequest
) -> None:
    lines, outcome = played(tmp_path, job(image, "echo x > /data/x", request_for_train))
    assert outcome.cause is not Cause.SUCCESS
    assert "Read-only" in str(lines)


def test_one_that_runs_is_ended(tmp_path: Path, image: str, request_for_train: TrainingRequest) -> None:
    made = job(image, "trap 'echo ended; exit 143' TERM; while :; do sleep 0.1; done", request_for_train)

    async def play() -> None:
        async with Containers(tmp_path) as kube:
            name = (await kube.create_job(made))["metadata"]["name"]
            again = await kube.create_job(made)
            assert outcomes.has_started(again) and not outcomes.has_ended(again)
            await kube.delete(name)
            assert await kube.get(name) is None

    asyncio.run(play())


def test_a_volume_of_the_cluster_is_refused_by_name(
    tmp_path: Path, image: str, request_for_train: TrainingRequest
) -> None:
    made = job(image, "true", request_for_train)
    spec = made["spec"]["template"]["spec"]
    spec["volumes"].append({"name": "login", "secret": {"secretName": "login"}})
    spec["containers"][0]["volumeMounts"].append({"name": "login", "mountPath": "/login"})
    with pytest.raises(KubeError, match="volume login is none that this machine has"):
        played(tmp_path, made)
