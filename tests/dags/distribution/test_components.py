"""Model files are known in every process of a running Airflow that has the wheel and no local settings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clean_environment import Installed

pytest_plugins = ("clean_environment",)
pytestmark = pytest.mark.nightly
SECONDS = 300
DAG = """\
from airflow.sdk import DAG, task

with DAG("started", schedule="@once", is_paused_upon_creation=False):
    task(lambda: None, task_id="nothing", retries=3, retry_delay=1)()
"""
# Airflow imports it in each process once the settings are initialised; forked processes import nothing.
PROBE = """\
import os

def report(how):
    from airflow.dag_processing.importers import get_importer_registry
    with open("/proc/self/cmdline") as stream:
        command = stream.read().replace(chr(0), " ")
    knows = get_importer_registry().can_handle("models/churn.yaml")
    with open(os.environ["REPORT"], "a") as stream:
        stream.write(f"{os.getpid()} {os.getppid()} {how} {knows} {command}\\n")

report("started")
os.register_at_fork(after_in_child=lambda: report("forked"))
__all__ = []
"""


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    how: str
    knows_model_files: bool
    command: str


@dataclass(frozen=True)
class Running:
    """A running Airflow, and what its processes reported."""

    installed: Installed
    directory: Path
    port: int

    @property
    def report(self) -> Path:
        return self.directory / "report"

    def processes(self) -> list[Process]:
        found = [line.split(" ", maxsplit=4) for line in self.report.read_text().splitlines()]
        return [
            Process(int(pid), int(parent), how, knows == "True", c) for pid, parent, how, knows, c in found
        ]

    def ask(self, path: str, body: object = None) -> dict[str, Any]:
        """The API's answer to a GET, or with a body to a POST."""
        request = urllib.request.Request(
            f"http://localhost:{self.port}/api/v2/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.load(answer))

    def state(self) -> str | None:
        """The state of the run that Airflow starts by itself."""
        with (
            closing(sqlite3.connect(self.directory / "home/airflow.db")) as database,
            suppress(sqlite3.Error),
        ):
            for (state,) in database.execute("select state from dag_run where dag_id = 'started'"):
                return str(state)
        return None


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def running(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("running")
    (directory / "home/config").mkdir(parents=True)
    (directory / "home/config/airflow_local_settings.py").write_text(PROBE)
    shutil.copytree(installed.dags, directory / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "dags/started.py").write_text(DAG)
    api, scheduler, triggerer, worker = free_ports(4)
    environment = {
        **installed.environment,
        "AIRFLOW_HOME": str(directory / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(directory / "dags"),
        "AIRFLOW__API__PORT": str(api),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{api}/execution/",
        # A busy machine answers a task's first request later than in the default 5 seconds.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(scheduler),
        "AIRFLOW__TRIGGERER__TRIGGERER_LOG_SERVER_PORT": str(triggerer),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker),
        "REPORT": str(directory / "report"),
    }
    airflow = Running(Installed(installed.programs, directory / "dags", environment), directory, api)
    log = directory / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [installed.programs / "airflow", "standalone"],
            env=environment,
            cwd=directory,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + SECONDS
        while airflow.state() != "success":
            assert process.poll() is None, log.read_text()[-5000:]
            assert time.monotonic() < deadline, log.read_text()[-5000:]
            time.sleep(1)
        yield airflow
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_every_process_knows_model_files(running: Running) -> None:
    processes = running.processes()
    assert {process for process in processes if not process.knows_model_files} == set()
    started = {process.command.split()[2]: process.pid for process in processes if process.how == "started"}
    assert {"api-server", "scheduler", "dag-processor", "triggerer"} <= set(started)
    # A process for each file, the one that runs triggers, and the executor's workers.
    parents = {process.parent for process in processes if process.how == "forked"}
    assert {started["dag-processor"], started["triggerer"], started["scheduler"]} <= parents
    workers = {process.pid for process in processes if process.parent == started["scheduler"]}
    assert workers & parents, "no process that runs a task"


def test_the_command_line_and_the_worker_pods_program_know_them(running: Running) -> None:
    for command in (
        ("airflow", "version"),
        ("python", "-m", "airflow.sdk.execution_time.execute_workload", "-h"),
    ):
        before = len(running.processes())
        running.installed.run(*command)
        started = [each for each in running.processes()[before:] if each.how == "started"]
        assert [process.knows_model_files for process in started] == [True], command


@pytest.mark.parametrize("dag", ["digits_training", "churn_training"])
def test_the_api_server_offers_the_links_of_a_task(running: Running, dag: str) -> None:
    run = running.ask(f"dags/{dag}/dagRuns", {"logical_date": None})  # paused: it stays queued
    links = running.ask(f"dags/{dag}/dagRuns/{run['dag_run_id']}/taskInstances/train/links")
    assert links["extra_links"] == {"MLflow run": None, "Why pending": None}
