"""What the end-to-end tests share: the cluster that ./scripts/up makes, its pages, and runs of DAGs.

The cluster and release are made by `./scripts/test` (or `./scripts/up`); KUBECONFIG names the cluster.
Each run trains a model name of its own, so that it neither meets nor replaces a champion of yours or of
another test; tests that want several runs of one model name it. Files pass in any order.

Tests that leave the others alone run in two processes, file by file. Tests that break something, or that want
GPUs to themselves, are marked `alone` and run one after the other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from kubernetes import client, config
from pods import PodRecorder, component_of, output_of, sync_mounts, wait_until

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from trainyard_cli import host  # noqa: E402
from trainyard_cli.airflow_api import FINAL_RUN_STATES, Airflow  # noqa: E402
from trainyard_cli.mlflow_api import Mlflow, ModelVersion  # noqa: E402
from trainyard_cli.platform import Platform, connect  # noqa: E402

NAMESPACE = "trainyard"
DAG = "digits_training"
RUN_SECONDS = 600
UP_SECONDS = 600
# Of scripts for the api-server, the one that holds the connection: its S3 hook.
S3_PRELUDE = """
import json
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
hook = S3Hook('trainyard_s3')
"""
# Of scripts for training pods, which tell what MLflow answers to calls of its client.
MLFLOW_PRELUDE = """
import json, sys
import mlflow
from mlflow.exceptions import MlflowException
from requests.exceptions import HTTPError

mlflow_client = mlflow.MlflowClient()

def result(call):
    try:
        call()
    except MlflowException as error:
        return error.get_http_status_code()
    except HTTPError as error:  # of an artifact
        return error.response.status_code
    return 200
"""


@dataclass
class Run:
    """One DAG run that has ended: task instances by task id, and those of mapped tasks by map index."""

    run_id: str
    state: str
    tasks: dict[str, dict[str, Any]]
    mapped: list[dict[str, Any]]

    def instances(self, task_id: str) -> list[dict[str, Any]]:
        """The instances of a mapped task, in the order of their map index."""
        return [task for task in self.mapped if task["task_id"] == task_id]


@pytest.fixture(scope="session")
def core() -> client.CoreV1Api:
    config.load_kube_config(os.environ["KUBECONFIG"])
    return client.CoreV1Api()


def run_python(core: client.CoreV1Api, namespace: str, pod: str, container: str, script: str) -> Any:
    """Run a script in a pod and return what it printed last, as JSON."""
    output = output_of(core, pod, namespace, "python3", "-c", script, container=container)
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="session")
def in_component(core: client.CoreV1Api) -> Callable[[str, str], Any]:
    """Runs Python in the pod of a component of Airflow."""

    def _run(component: str, script: str) -> Any:
        pods = core.list_namespaced_pod(NAMESPACE, label_selector=f"component={component}").items
        pod = next(
            each for each in pods if each.status.phase == "Running" and not each.metadata.deletion_timestamp
        )
        return run_python(core, NAMESPACE, pod.metadata.name, component, script)

    return _run


@pytest.fixture(scope="session")
def platform(core: client.CoreV1Api) -> dict[str, Any]:
    """The platform file that DAGs read their placement from."""
    return json.loads(core.read_namespaced_config_map("trainyard-platform", NAMESPACE).data["platform.json"])


@pytest.fixture(scope="session")
def docker() -> str:
    return host.docker()


@pytest.fixture(scope="session")
def connection() -> Platform:
    """The clients that the commands use."""
    return connect()


@pytest.fixture(scope="session")
def airflow(connection: Platform) -> Airflow:
    return connection.airflow


@pytest.fixture(scope="session")
def mlflow(connection: Platform) -> Mlflow:
    return connection.mlflow


@pytest.fixture(scope="session")
def recorder(core: client.CoreV1Api, platform: dict[str, Any]) -> Iterator[PodRecorder]:
    recorder = PodRecorder(core, (NAMESPACE, platform["training"]["namespace"]))
    recorder.start()
    yield recorder
    recorder.stop()


@pytest.fixture(scope="session")
def model_name() -> str:
    """The name of the session's model; names of its further models begin with it."""
    process = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return f"digits-e2e-{time.strftime('%Y%m%d-%H%M%S')}-{process}"


@pytest.fixture(scope="session")
def trigger(airflow: Airflow, recorder: PodRecorder, model_name: str) -> Callable[..., str]:
    """Starts a run of a DAG and returns its run id. Each run of digits_training trains a model of its own."""

    def _trigger(name: str, dag: str = DAG, **conf: Any) -> str:
        run_id = f"{name}-{model_name}"
        own = {"model_name": f"{model_name}-{name}"} if dag == DAG else {}
        airflow.trigger(dag, own | conf, run_id)
        return run_id

    return _trigger


@pytest.fixture(scope="session")
def finish(airflow: Airflow) -> Callable[..., Run]:
    """Waits for a run to end."""

    def _finish(run_id: str, dag: str = DAG) -> Run:
        def final() -> str | None:
            state = airflow.dag_run(dag, run_id)["state"]
            return state if state in FINAL_RUN_STATES else None

        state = wait_until(f"run {run_id} of {dag} to end", final, seconds=RUN_SECONDS, every=2)
        instances = airflow.task_instances(dag, run_id)
        tasks = {task["task_id"]: task for task in instances if task["map_index"] < 0}
        mapped = [task for task in instances if task["map_index"] >= 0]
        return Run(run_id, state, tasks, sorted(mapped, key=lambda task: task["map_index"]))

    return _finish


def give_up(airflow: Airflow, dag: str, run_id: str) -> None:
    """End a run as a person does who marks it as failed."""
    airflow.request("PATCH", f"/api/v2/dags/{dag}/dagRuns/{quote(run_id)}", json={"state": "failed"})


@pytest.fixture(scope="session")
def versions(mlflow: Mlflow) -> Callable[..., list[ModelVersion]]:
    """The model versions that a run registered."""

    def _versions(run_id: str, dag: str = DAG) -> list[ModelVersion]:
        return mlflow.versions_of_run(f"{dag}__{run_id}")

    return _versions


@pytest.fixture(scope="session")
def first_run(trigger: Callable[..., str], finish: Callable[..., Run], model_name: str) -> Run:
    """The first training of this session's model: there is no champion yet."""
    return finish(trigger("first", model_name=model_name))


@pytest.fixture(scope="session")
def simulator(core: client.CoreV1Api) -> Callable[[str], tuple[Callable[..., str], str]]:
    """For a pool: a function that runs a gpu_simulator command on its node, and the node's name."""

    def _simulator(pool: str) -> tuple[Callable[..., str], str]:
        node = core.list_node(label_selector=f"trainyard.dev/pool={pool}").items[0].metadata.name
        (pod,) = core.list_namespaced_pod(
            "nvidia-device-plugin", field_selector=f"spec.nodeName={node},status.phase=Running"
        ).items

        def command(*args: str) -> str:
            program = ("python3", "-m", "gpu_simulator", *args)
            return output_of(core, pod.metadata.name, pod.metadata.namespace, *program)

        return command, node

    return _simulator


def up(*options: str | Path, checkout: Path = ROOT, succeeds: bool = True) -> str:
    """Release a checkout's chart; returns what the command printed."""
    command = [checkout / "scripts/up", "--no-train", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=UP_SECONDS)
    printed = done.stdout + done.stderr
    assert (done.returncode == 0) is succeeds, printed
    return printed


def copy_of_checkout(directory: Path) -> Path:
    """A copy of the checkout, in which a test may change files."""
    checkout = directory / "trainyard"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    return checkout


@contextmanager
def released_with(values: dict[str, Any], airflow: Airflow, directory: Path) -> Iterator[None]:
    """The release with further values, and afterwards as it was; either way the DAGs have been read anew."""
    file = directory / "values.json"
    file.write_text(json.dumps(values))
    try:
        _up_and_parsed(airflow, "--values", file)
        yield
    finally:
        _up_and_parsed(airflow)


def _up_and_parsed(airflow: Airflow, *options: str | Path) -> None:
    before = datetime.now(UTC).isoformat()
    up(*options)
    airflow.wait_for_dag(DAG, parsed_after=before)


def wait_for_platform_file(core: client.CoreV1Api, accept: Callable[[str], bool]) -> None:
    """Wait until the triggerer sees what `accept` accepts; nothing restarts when the file changes."""

    def accepted() -> bool:
        triggerer = component_of(core, "triggerer", NAMESPACE)
        return accept(output_of(core, triggerer, NAMESPACE, "sh", "-c", "cat $TRAINYARD_PLATFORM"))

    sync_mounts(core, "triggerer", NAMESPACE)
    wait_until("the triggerer to see the changed platform file", accepted, seconds=240)


def metric_steps(mlflow: Mlflow, mlflow_run: str, metric: str) -> list[int]:
    """Every logged step of a metric, in order, duplicates kept."""
    answer = mlflow.get("metrics/get-history", {"run_id": mlflow_run, "metric_key": metric})
    return sorted(int(point["step"]) for point in answer["metrics"])


def wait_for_log(
    airflow: Airflow, dag: str, run_id: str, task: str, *words: str, try_number: int = 1
) -> None:
    """Wait until all of the words are in the log of a try: it comes a little later than the task's state."""

    def has_all() -> bool:
        text = "\n".join(str(line["event"]) for line in airflow.log(dag, run_id, task, try_number))
        assert "Could not read" not in text
        return all(each in text for each in words)

    wait_until(f"{words} in the log of {task}", has_all, seconds=30)


def run_tags(mlflow: Mlflow, mlflow_run: str) -> dict[str, str]:
    answer = mlflow.get("runs/get", {"run_id": mlflow_run})
    return {tag["key"]: tag["value"] for tag in answer["run"]["data"]["tags"]}
