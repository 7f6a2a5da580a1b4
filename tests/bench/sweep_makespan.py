"""Makespan of nine trainings on the running cluster, in one run and in turn by three ways to start them:

    ./scripts/_python --dev python tests/bench/sweep_makespan.py [--rounds N]

`jobs` are nine bare Kubernetes Jobs created at once, `trainyard` nine mapped TrainingPodOperator tasks, and
`stock` nine mapped KubernetesPodOperator tasks, deferrable. Image, command, GPU pool and resources are the
same. The makespan runs from the request until the last training is known to be over (the Job complete, the
task ended), and the figures that count are the ratios to `jobs` within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BENCH_DAGS = ROOT / "tests/bench/dags"
NAMESPACE = "trainyard"
SECONDS = 900
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "library"), str(ROOT / "dags"), str(BENCH_DAGS)]

from kubernetes import client, config, utils  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402
from trainyard_cli import paths  # noqa: E402
from trainyard_cli.platform import Platform, connect  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is timed (default 3)")
    rounds = parser.parse_args().rounds
    with _bench_dags():
        platform = connect()
        config.load_kube_config(str(paths.KUBECONFIG))
        with _token_of_the_stock_operator(), _bench(platform) as ways:
            dataset = _dataset(platform)
            times: dict[str, list[float]] = {way: [] for way in ways}
            for number in track(range(rounds), description="timing"):
                for way, run in ways.items():
                    times[way].append(run(f"{int(time.time())}-{number}", dataset))
                    print(f"round {number + 1}: {way} {times[way][-1]:.1f} s", flush=True)
    _report(times)


def _report(times: dict[str, list[float]]) -> None:
    table = Table(
        "way", "seconds", "ratio to jobs, by round", "median ratio", title="makespan of 9 trainings"
    )
    for way, seconds in times.items():
        ratios = [mine / bare for mine, bare in zip(seconds, times["jobs"], strict=True)]
        table.add_row(
            way,
            " ".join(f"{each:.1f}" for each in seconds),
            " ".join(f"{each:.2f}" for each in ratios),
            f"{statistics.median(ratios):.2f}",
        )
    Console().print(table)


@contextlib.contextmanager
def _bench_dags() -> Iterator[None]:
    """Release a copy of the checkout with the bench's DAGs in it, and the checkout itself at the end."""
    with tempfile.TemporaryDirectory(prefix="sweep-makespan-") as directory:
        copy = Path(directory) / "trainyard"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
        shutil.copytree(BENCH_DAGS, copy / "dags", dirs_exist_ok=True)
        try:
            subprocess.run([copy / "scripts/up", "--no-train"], check=True)
            yield
        finally:
            subprocess.run([ROOT / "scripts/up", "--no-train"], check=True)


@contextlib.contextmanager
def _token_of_the_stock_operator() -> Iterator[None]:
    """A ServiceAccount which may make training pods: worker pods themselves may not."""
    name, training = "bench-stock", "ml-training"
    rbac = "rbac.authorization.k8s.io"
    verbs = ["create", "delete", "get", "list", "patch", "watch"]
    objects: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "Role",
            "metadata": {"name": name, "namespace": training},
            "rules": [{"apiGroups": [""], "resources": ["pods", "pods/log", "events"], "verbs": verbs}],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": training},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
        },
    ]
    for each in objects:
        utils.create_from_dict(client.ApiClient(), each)
    try:
        yield
    finally:
        client.CoreV1Api().delete_namespaced_service_account(name, NAMESPACE)
        client.RbacAuthorizationV1Api().delete_namespaced_role(name, training)
        client.RbacAuthorizationV1Api().delete_namespaced_role_binding(name, training)


def _dataset(platform: Platform) -> str:
    """The processed digits, from a run of the pipeline."""
    run_id = f"bench-data-{int(time.time())}"
    platform.airflow.trigger("digits_training", {"epochs": 1, "model_name": "digits-bench"}, run_id)
    _wait_for_run(platform, "digits_training", run_id)
    return str(platform.airflow.xcom("digits_training", run_id, "preprocess", "dataset"))


@contextlib.contextmanager
def _bench(platform: Platform) -> Iterator[dict[str, Callable[[str, str], float]]]:
    """The three ways: each takes the round's name and the dataset, and returns its makespan in seconds."""
    with tempfile.TemporaryDirectory(prefix="platform-") as directory:
        file = Path(directory) / "platform.json"
        configmap = client.CoreV1Api().read_namespaced_config_map("trainyard-platform", NAMESPACE)
        file.write_text(configmap.data["platform.json"])
        os.environ["TRAINYARD_PLATFORM"] = str(file)
        yield {
            "jobs": _jobs,
            "trainyard": lambda name, dataset: _dag(platform, "bench_trainyard", name, dataset),
            "stock": lambda name, dataset: _dag(platform, "bench_stock", name, dataset),
        }


def _jobs(name: str, dataset: str) -> float:
    from bench_sweep import PLATFORM, TRIALS, trial_pod

    batch, namespace = client.BatchV1Api(), PLATFORM.training.namespace
    jobs = [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"bench-{name}-{trial}", "labels": {"trainyard.dev/bench": "sweep"}},
            "spec": {"backoffLimit": 0, "template": trial_pod(trial, f"jobs-{name}", dataset)},
        }
        for trial in TRIALS
    ]
    started = time.time()
    for job in jobs:
        batch.create_namespaced_job(namespace, job)

    def finished() -> list[float]:
        found = batch.list_namespaced_job(namespace, label_selector="trainyard.dev/bench=sweep").items
        assert not any(job.status.failed for job in found), "a bare Job failed"
        return [job.status.completion_time.timestamp() for job in found if job.status.succeeded]

    try:
        ends = _wait("the bare Jobs", lambda: ends if len(ends := finished()) == len(jobs) else None)
    finally:
        batch.delete_collection_namespaced_job(
            namespace, label_selector="trainyard.dev/bench=sweep", propagation_policy="Foreground"
        )
    return max(ends) - started


def _dag(platform: Platform, dag_id: str, name: str, dataset: str) -> float:
    platform.airflow.wait_for_dag(dag_id, "2026-01-01T00:00:00")
    run_id = f"{dag_id}-{name}"
    started = time.time()
    platform.airflow.trigger(dag_id, {"dataset": dataset}, run_id)
    instances = _wait_for_run(platform, dag_id, run_id)
    return max(datetime.fromisoformat(each["end_date"]).timestamp() for each in instances) - started


def _wait_for_run(platform: Platform, dag_id: str, run_id: str) -> list[dict[str, Any]]:
    def ended() -> bool:
        state = platform.airflow.dag_run(dag_id, run_id)["state"]
        assert state != "failed", f"run {run_id} of {dag_id} failed"
        return state == "success"

    _wait(f"run {run_id} of {dag_id}", ended)
    return platform.airflow.task_instances(dag_id, run_id)


def _wait(what: str, check: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (answer := check()):
        assert time.monotonic() < deadline, f"{what} took longer than {SECONDS} s"
        time.sleep(1)
    return answer


if __name__ == "__main__":
    main()
