"""From an earlier version to this one and back by Helm, each while a training is under way: nothing is lost.

Argo CD's side of it is in test_gitops.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import NAMESPACE, ROOT, Run, metric_steps, up
from kubernetes import client
from pods import PodRecorder, wait_until
from trainyard_cli.platform import Platform

pytestmark = [pytest.mark.alone, pytest.mark.nightly]

# What was there before, with the same PostgreSQL, as the data of another one needs a backup and a restore
# (docs/operations.md); a tag from the first release on.
EARLIER = "c29ba2b91d"
NODE = "images/kind-node"
# So long that the release is another one before the training has ended.
EPOCHS = 150
LONG = {"epochs": EPOCHS, "epoch_seconds": 1}
SPACES = (NAMESPACE, "ml-training")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The earlier version, which is installed; afterwards there is this version again."""
    checkout = tmp_path_factory.mktemp("earlier") / "trainyard"
    for command in (
        ["clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(checkout)],
        ["-C", str(checkout), "checkout", "--quiet", EARLIER],
    ):
        subprocess.run(["git", *command], check=True)
    # The cluster stays: only what is released on it is earlier.
    shutil.copytree(ROOT / NODE, checkout / NODE, dirs_exist_ok=True)
    try:
        up(checkout=checkout)
        yield checkout
    finally:
        up()


@pytest.fixture
def under_way(
    trigger: Callable[..., str], recorder: PodRecorder, request: pytest.FixtureRequest
) -> Callable[[], bool]:
    """Starts a training, and tells whether its pod still runs. Its run is the test's name."""
    run_id = trigger(request.node.name, **LONG)

    def running() -> bool:
        pods = recorder.of_task(run_id, "train")
        return bool(pods) and pods[-1]["status"].get("phase") == "Running"

    wait_until("the training pod to run", running, seconds=240)
    return running


@pytest.fixture
def is_whole(
    finish: Callable[..., Run],
    versions: Callable[..., list[Any]],
    recorder: PodRecorder,
    connection: Platform,
    model_name: str,
    request: pytest.FixtureRequest,
) -> Callable[[str], None]:
    """Checks that a run ends as if nothing had been; takes what has been, and the number of its pods."""

    def check(changed: str) -> None:
        run_id = f"{request.node.name}-{model_name}"
        run = finish(run_id)
        assert run.state == "success", changed
        assert run.tasks["train"]["try_number"] == 1, changed
        assert len(recorder.of_task(run_id, "train")) == 1, changed
        (version,) = versions(run_id)
        steps = metric_steps(connection.mlflow, version.run_id, "val_f1_macro")
        assert steps == list(range(1, EPOCHS + 1)), changed

    return check


class Released(NamedTuple):
    """The release as it is now."""

    revision: int
    triggerer: str
    """The image of the triggerer, which watches the training."""


def released() -> Released:
    command = ["helm", "status", "trainyard", f"--namespace={NAMESPACE}", "--output=json"]
    status = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    deployment = client.AppsV1Api().read_namespaced_deployment("trainyard-triggerer", NAMESPACE)
    (image,) = (one.image for one in deployment.spec.template.spec.containers if one.name == "triggerer")
    return Released(status["version"], image)


def changed(before: Released) -> str:
    """Checks that the release is another one now; returns its revisions, for messages."""
    now = released()
    told = f"revision {now.revision} of the release, after {before.revision}"
    assert now.revision > before.revision, told
    assert now.triggerer != before.triggerer, f"{told}: the triggerer's image is {now.triggerer} as before"
    return told


def kept(core: client.CoreV1Api) -> dict[str, Any]:
    """What an upgrade does not touch: claims by their UID, Secrets by their content."""
    found: dict[str, Any] = {}
    for namespace in SPACES:
        for claim in core.list_namespaced_persistent_volume_claim(namespace).items:
            found[f"{namespace}/claim/{claim.metadata.name}"] = claim.metadata.uid
        for secret in core.list_namespaced_secret(namespace).items:
            if secret.type != "helm.sh/release.v1":
                found[f"{namespace}/secret/{secret.metadata.name}"] = secret.data
    return found


def test_an_upgrade_loses_nothing(
    earlier: Path, under_way: Callable[[], bool], is_whole: Callable[[str], None], core: client.CoreV1Api
) -> None:
    before, release = kept(core), released()
    up()
    told = changed(release)
    assert under_way(), f"the training ended before the upgrade did ({told})"
    after = kept(core)
    assert {name: after.get(name) for name in before} == before, told
    is_whole(told)


def test_a_rollback_loses_nothing(
    earlier: Path, under_way: Callable[[], bool], is_whole: Callable[[str], None], core: client.CoreV1Api
) -> None:
    before, release = kept(core), released()
    rollback = ["helm", "rollback", "trainyard", f"--namespace={NAMESPACE}", "--wait", "--timeout=8m"]
    subprocess.run(rollback, check=True)
    told = changed(release)
    assert kept(core) == before, told
    is_whole(told)
