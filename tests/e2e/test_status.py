"""status on releases that Helm has installed: the platform, and one whose image cannot be pulled."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import NAMESPACE, ROOT
from kubernetes import client
from pods import scratch, wait_until
from trainyard_cli import paths, status
from trainyard_cli.environments import Environment
from trainyard_cli.kube import Kube

BROKEN = "scratch-status"
CHART = {
    "Chart.yaml": "{apiVersion: v2, name: broken, version: 1.2.3}\n",
    "templates/deployment.yaml": """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: broken}
spec:
  selector: {matchLabels: {app: broken}}
  template:
    metadata: {labels: {app: broken}}
    spec: {containers: [{name: main, image: "registry.invalid/none:1"}]}
""",
}


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "scripts/status", *words], capture_output=True, text=True, timeout=120)


def of_the_platform(*words: str) -> dict[str, Any]:
    done = command("--json", *words)
    assert done.returncode == 0, done.stderr
    states = json.loads(done.stdout)["environments"]
    return next(each for each in states if each["environment"] == f"{NAMESPACE}/trainyard")


def test_the_platform_is_healthy_and_its_dags_parse() -> None:
    found = of_the_platform()
    assert (found["by"], found["sync"], found["health"]) == ("Helm", "deployed", "Healthy")
    assert found["problems"] == [], "Airflow was asked as well"
    names = {each.partition(":")[0] for each in found["images"]}
    assert {"airflow", "mlflow", "trainer", "postgres", "versitygw"} <= names


def test_any_cluster_of_a_kubeconfig_is_reached() -> None:
    assert of_the_platform("--kubeconfig", os.environ["KUBECONFIG"]) == of_the_platform()


def test_a_context_that_is_not_there_is_named() -> None:
    done = command("--kubeconfig", os.environ["KUBECONFIG"], "--context", "nowhere")
    assert done.returncode == 1
    assert 'context "nowhere" does not exist' in done.stderr
    assert "config get-contexts" in done.stderr


@pytest.fixture
def broken(core: client.CoreV1Api, tmp_path: Path) -> Iterator[Environment]:
    for name, text in CHART.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with scratch(core, {"metadata": {"name": BROKEN}}):
        subprocess.run(["helm", "install", "broken", tmp_path, "--namespace", BROKEN], check=True)
        yield Environment("broken", "https://a", BROKEN, "broken", "main", (), {}, {})


def test_a_release_that_is_not_healthy_says_why(broken: Environment) -> None:
    kube = Kube(paths.KUBECONFIG)

    def failed() -> status.State | None:
        states = {each.environment: each for each in status.collect(kube, [broken], "argocd").environments}
        state = states[f"{BROKEN}/broken"]
        return state if any("Image" in each.why for each in state.problems) else None

    state = wait_until("the image to be missed", failed, seconds=120)
    (problem,) = state.problems
    assert (state.health, state.revision, state.images) == ("Degraded", "1 (broken-1.2.3)", ["none:1"])
    assert problem.what == f"Deployment {BROKEN}/broken"
    assert problem.cure.startswith("push the image")
