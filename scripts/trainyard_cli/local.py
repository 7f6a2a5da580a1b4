"""Runs a DAG on this machine without a cluster: tasks in one process, trainings as containers.

Airflow's `dags test` runs it, with a database, an MLflow server and volumes under the cache. What deploys a
model or cleans up needs a cluster, and fails.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import httpx
from rich.console import Console

from . import chart, host, images, paths, platform, toolchain
from .errors import CliError
from .shell import run
from .stages import Stages

DIRECTORY = paths.HOME / "local"
STORE = DIRECTORY / "mlflow"
LABEL = "trainyard.dev/local"  # of all containers, as trainyard.local.containers has it
START_SECONDS = 120
# What only a cluster has.
OF_CLUSTER = ("maintenance", "openlineage")
# A message in Airflow's log: when, how bad, and what; then where from.
BEGIN = re.compile(r"\S+T(\S{8})\S* \[(\w+) *\] (.*)")
SOURCE = re.compile(r" +\[([\w.]+)\] .*\bloc=\S+.*")
TASK = re.compile(r"\[DAG TEST\] starting task_id=(\S+)")


def run_dag(stages: Stages, dag_id: str, conf: dict[str, Any], dags: Path, console: Console) -> None:
    """Run a DAG of the directory ``dags`` with these parameters to its end; CliError if it fails."""
    STORE.mkdir(parents=True, exist_ok=True)
    with stages("tools") as stage:
        helm = toolchain.helm(stage)
        host.ensure_docker(stage)
    with stages("images") as stage:
        trainer, mlflow = (images.ensure_built(stage, name) for name in ("trainer", "mlflow"))
    with stages("test environment"):
        run([*paths.DEV, "true"])
    with platform.only_one("running a DAG with --local", DIRECTORY / "lock"), _no_containers_left():
        port = _free_port()
        environment = _environment(platform_file(helm, trainer, f"http://127.0.0.1:{port}"), dags)
        with stages("database"):
            run([*paths.DEV, "airflow", "db", "migrate"], env=environment, log="local-database")
        with _tracking_server(mlflow, port), stages(dag_id):
            _run(dag_id, conf, environment, console)
    console.print(f"{dag_id}: success", markup=False)
    shown = shlex.join(_serve(mlflow, port))
    console.print(f"its runs and models, at http://127.0.0.1:{port}: {shown}", markup=False, soft_wrap=True)


def _run(dag_id: str, conf: dict[str, Any], environment: Mapping[str, str], console: Console) -> None:
    """Run the DAG, and show what its tasks say."""
    log = paths.LOGS / f"local-{dag_id}.log"
    command = [*paths.DEV, "airflow", "dags", "test", dag_id, "--conf", json.dumps(conf)]
    with (
        log.open("w") as everything,
        subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in said(_written(process.stdout, everything)):
            console.print(line, markup=False, soft_wrap=True)
    if process.returncode:
        *_, last = log.read_text(errors="replace").splitlines() or [""]
        cure = f"see the errors above; all that Airflow says is in {log}"
        raise CliError(f"the run of {dag_id} failed: {last.strip()}", cure)


def said(lines: Iterable[str]) -> Iterator[str]:
    """Yield of Airflow's log what it says of tasks, and errors: a message may have several lines."""
    is_shown = False
    for line in lines:
        text, source = line.rstrip(), ""
        if found := SOURCE.search(text):
            text, source = text[: found.start()], found[1]
        if begun := BEGIN.fullmatch(text):
            moment, level, text = begun.groups()
            task = TASK.match(text)
            # The last line of a message says where it is from.
            is_shown = bool(task) or level == "error" or not source or source.startswith("trainyard.")
            text = f"{moment} {task[1]}" if task else f"{moment}   {text}"
        if is_shown:
            yield text.rstrip()


def _written(lines: Iterable[str], file: TextIO) -> Iterator[str]:
    for line in lines:
        file.write(line)
        yield line


def platform_file(helm: Path, image: str, tracking_uri: str) -> Path:
    """Write the platform file of the kind cluster, as far as it holds here."""
    everything = chart.platform_file(helm, [])
    for pool in everything["pools"].values():
        pool.pop("queue", None)  # a container starts at once
    training = everything["training"]
    # The login of MLflow is a Secret.
    training["pod"] |= {"extraVolumes": [], "extraVolumeMounts": []}
    training |= {
        "image": image,
        "trackingUri": tracking_uri,
        "trackingUiUrl": tracking_uri,
        "gpuDevice": "cpu",
    }
    file = DIRECTORY / "platform.json"
    here = {key: value for key, value in everything.items() if key not in OF_CLUSTER}
    file.write_text(json.dumps({**here, "local": str(DIRECTORY)}, indent=2))
    return file


def _environment(platform_file: Path, dags: Path) -> dict[str, str]:
    """Return what Airflow and the library find their places by."""
    airflow = DIRECTORY / "airflow"
    inherited = [path for path in [os.environ.get("PYTHONPATH")] if path]
    return {
        "AIRFLOW_HOME": str(airflow),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow}/airflow.db",
        "PYTHONPATH": os.pathsep.join([str(paths.ROOT / "library"), str(dags), *inherited]),
        "PATH": os.pathsep.join([str(Path(host.docker()).parent), os.environ["PATH"]]),
        "TRAINYARD_PLATFORM": str(platform_file),
        "PYTHONWARNINGS": "ignore",
    }


@contextmanager
def _no_containers_left() -> Iterator[None]:
    """Remove the containers of a run that was killed, and those that this run leaves."""
    _remove_containers()
    try:
        yield
    finally:
        _remove_containers()


def _remove_containers() -> None:
    docker = host.docker()
    if names := run([docker, "ps", "--all", "--quiet", f"--filter=label={LABEL}"]).stdout.split():
        run([docker, "rm", "--force", *names], check=False)


def _serve(image: str, port: int) -> list[str]:
    """Return the command that runs MLflow's server on the data of all local runs."""
    container = ("--rm", "--network=host", f"--user={os.getuid()}:{os.getgid()}", "--env=HOME=/tmp")
    of_job_runners = "--env=MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
    store = (
        "--backend-store-uri=sqlite:////store/mlflow.db",
        "--artifacts-destination=file:///store/artifacts",
    )
    listens = ("--host=127.0.0.1", f"--port={port}", "--workers=1")
    docker = [host.docker(), "run", *container, of_job_runners, f"--volume={STORE}:/store"]
    return [*docker, image, "mlflow", "server", *listens, *store]


@contextmanager
def _tracking_server(image: str, port: int) -> Iterator[None]:
    """Run MLflow's server for as long as the block."""
    log = paths.LOGS / "local-mlflow.log"
    docker, command, *rest = _serve(image, port)
    with (
        log.open("w") as output,
        subprocess.Popen(
            [docker, command, f"--label={LABEL}", *rest], stdout=output, stderr=subprocess.STDOUT
        ) as server,
    ):
        try:
            _wait_for(port, server, log)
            yield
        finally:
            server.terminate()


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise CliError("MLflow's server does not start", f"see {log}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
