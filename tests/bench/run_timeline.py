"""Where the seconds of a DAG run go, on the running cluster:

    ./scripts/_python --dev python tests/bench/run_timeline.py DAG [--conf JSON]

For each task, in seconds since the run was triggered: when it began and ended, when its pod was created, when
its container ran, and when the pod was deleted. Then the CPU-seconds of the platform's pods, and how busy the
machine was in all. Say with a figure what else the machine did: the first line shows its load before the run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/e2e")]

from kubernetes import client, config  # noqa: E402
from pods import PodRecorder, ran_between  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from trainyard_cli import paths, release, training  # noqa: E402
from trainyard_cli.airflow_api import FINAL_RUN_STATES  # noqa: E402
from trainyard_cli.platform import Platform, connect  # noqa: E402

POLL_SECONDS = 0.5
SETTLE_SECONDS = 3  # for the pods of the last tasks to go
NANO = 1e-9
Times = dict[str, float | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dag", help="its id")
    parser.add_argument("--conf", default="{}", help="the run's parameters, as a JSON object")
    arguments = parser.parse_args()
    platform = connect()
    config.load_kube_config(str(paths.KUBECONFIG))
    recorder = PodRecorder(client.CoreV1Api(), release.OWN_NAMESPACES)
    recorder.start()
    measure(platform, recorder, arguments.dag, training.parse_conf(arguments.conf), Console(width=140))
    recorder.stop()


def measure(
    platform: Platform, recorder: PodRecorder, dag: str, conf: dict[str, Any], console: Console
) -> None:
    """Run the DAG once and print where its time went."""
    load, cpu_before, busy_before = os.getloadavg()[0], pod_cpu(platform), busy_seconds()
    run_id = training.new_run_id("timeline")
    training.start(platform, dag, conf, run_id)
    started = time.time()
    while (state := platform.airflow.dag_run(dag, run_id)["state"]) not in FINAL_RUN_STATES:
        time.sleep(POLL_SECONDS)
    busy, run = busy_seconds() - busy_before, platform.airflow.dag_run(dag, run_id)
    time.sleep(SETTLE_SECONDS)
    began = moment(run["queued_at"]) or started
    seconds = (moment(run["end_date"]) or time.time()) - began

    table = Table(title=f"{dag} {run_id}: {state}", title_justify="left")
    for column in ("task", "state"):
        table.add_column(column, no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    rows = [row(task, recorder, began) for task in platform.airflow.task_instances(dag, run_id)]
    for name, ended_as, times in sorted(rows, key=lambda each: each[2]["begin"] or float("inf")):
        shown = ("" if times.get(key) is None else f"{times[key]:.1f}" for key in COLUMNS)
        table.add_row(name, ended_as, *shown)
    console.print(table)
    used = {pod: after - cpu_before.get(pod, 0) for pod, after in pod_cpu(platform).items()}
    listed = ", ".join(
        f"{pod} {cpu:.1f}" for pod, cpu in sorted(used.items(), key=lambda each: -each[1]) if cpu > 1
    )
    console.print(
        f"load average before the run {load:.2f}; CPU-seconds of all processes {busy:.0f}: {listed}"
    )
    console.print(f"{dag} took {seconds:.1f} s", style="bold")


COLUMNS = ("begin", "created", "running", "ended", "end", "deleted")


def row(task: dict[str, Any], recorder: PodRecorder, began: float) -> tuple[str, str, Times]:
    """Name and state of a task instance, and its times in seconds since the run began."""
    times: dict[str, float | None] = {"begin": moment(task["start_date"]), "end": moment(task["end_date"])}
    name, index = task["task_id"], task["map_index"]
    for pod in recorder.of_task(task["dag_run_id"], name):
        if pod["metadata"]["labels"].get("trainyard.dev/map-index", "none") not in ("none", str(index)):
            continue
        times["created"] = moment(pod["metadata"]["creationTimestamp"])
        statuses = pod["status"].get("containerStatuses", [])
        if statuses and "terminated" in statuses[0]["state"]:
            times["running"], times["ended"] = (each.timestamp() for each in ran_between(pod))
        times["deleted"] = moment(pod["metadata"].get("deletionTimestamp"))
    relative = {key: value and value - began for key, value in times.items()}
    return name if index < 0 else f"{name}[{index}]", task["state"] or "", relative


def moment(text: str | None) -> float | None:
    """A time of an API as a UNIX time; Kubernetes writes whole seconds."""
    return datetime.fromisoformat(text).timestamp() if text else None


def pod_cpu(platform: Platform) -> dict[str, float]:
    """CPU-seconds that each pod of the release has used so far, as its kubelet counts them."""
    found = {}
    for node in platform.kube.items("/api/v1/nodes"):
        summary = platform.kube.get(f"/api/v1/nodes/{node['metadata']['name']}/proxy/stats/summary")
        for pod in summary["pods"]:
            if pod["podRef"]["namespace"] in release.OWN_NAMESPACES:
                used = pod.get("cpu", {}).get("usageCoreNanoSeconds", 0)
                found[pod["podRef"]["name"]] = used * NANO
    return found


def busy_seconds() -> float:
    """CPU-seconds that this machine's processes have used since it started."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq")
    times = dict(zip(names, map(int, Path("/proc/stat").read_text().split()[1:8]), strict=True))
    return (sum(times.values()) - times["idle"] - times["iowait"]) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
