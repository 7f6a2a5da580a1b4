"""Seconds from a push to a runnable DAG, and of a trivial task with DAGs from an image and from git.

    ./scripts/_python --dev python tests/bench/dag_ways.py [--rounds 5]

Releases both ways at once on the running cluster, as tests/e2e/test_dags_follow_git.py does; at the end the
checkout again. `tests/bench/dag_change.py` times a changed DAG image.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/e2e")]

from trainyard_cli import paths  # noqa: E402

os.environ.setdefault("KUBECONFIG", str(paths.KUBECONFIG))

from git_server import git_server  # noqa: E402
from kubernetes import client, config  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from test_dags_follow_git import GIT_DAG, IMAGE_DAG, SCRATCH, from_git, released  # noqa: E402
from trainyard_cli.airflow_api import FINAL_RUN_STATES, Airflow  # noqa: E402
from trainyard_cli.platform import connect  # noqa: E402

SECONDS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed (default 5)")
    rounds = parser.parse_args().rounds
    config.load_kube_config(os.environ["KUBECONFIG"])
    core, airflow = client.CoreV1Api(), connect().airflow
    times: dict[str, list[float]] = {
        "push to runnable": [],
        f"task of {GIT_DAG}": [],
        f"task of {IMAGE_DAG}": [],
    }
    with git_server(core, SCRATCH) as server, tempfile.TemporaryDirectory() as directory:
        server.push(**from_git("bench"))
        with released(core, airflow, server, Path(directory), slots=16):
            _wait_for(airflow, GIT_DAG, "bench")
            _wait_for(airflow, IMAGE_DAG, "image-1")
            for number in range(rounds):
                version = f"bench-{int(time.time())}"
                start = time.monotonic()
                server.push(**from_git(version))
                _wait_for(airflow, GIT_DAG, version)
                times["push to runnable"].append(time.monotonic() - start)
                for dag in (GIT_DAG, IMAGE_DAG):
                    times[f"task of {dag}"] += _tasks(airflow, dag, f"{version}-{number}")
    table = Table("what", "median", "each", title="seconds")
    for what, seconds in times.items():
        table.add_row(what, f"{statistics.median(seconds):.1f}", " ".join(f"{one:.1f}" for one in seconds))
    Console().print(table)


def _wait_for(airflow: Airflow, dag_id: str, version: str) -> None:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        for dag in airflow.dags():
            if dag["dag_id"] == dag_id and version in {tag["name"] for tag in dag["tags"]}:
                return
        time.sleep(0.2)
    raise SystemExit(f"{dag_id} of {version} did not appear in {SECONDS} s")


def _tasks(airflow: Airflow, dag_id: str, run_id: str) -> list[float]:
    """Seconds from queued to done of each task of a run: the start of a worker pod, and nothing else."""
    airflow.trigger(dag_id, {}, run_id)
    while (state := airflow.dag_run(dag_id, run_id)["state"]) not in FINAL_RUN_STATES:
        time.sleep(0.5)
    assert state == "success", f"{dag_id} {run_id}: {state}"
    tasks = airflow.task_instances(dag_id, run_id)
    return [(_time(task["end_date"]) - _time(task["queued_when"])).total_seconds() for task in tasks]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


if __name__ == "__main__":
    main()
