"""The machine below the cluster: Docker, disk space, ports. Nothing that works already is touched."""

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from . import bounded_runc, paths
from .errors import CliError
from .shell import failure, run
from .stages import Reporter

DOCKER_START_SECONDS = 60
DOCKER_STOP_SECONDS = 60
DAEMON_CONFIG = Path("/etc/docker/daemon.json")
# The pid file that dockerd keeps for its containerd. A stale one whose number some other process has got
# meanwhile makes dockerd wait for that process.
CONTAINERD_PID = Path("/var/run/docker/containerd/containerd.pid")
DOCKERD_PID = paths.STATE / "dockerd.pid"
DOCKERD_LOG = paths.LOGS / "dockerd.log"
_installing = threading.Lock()


def ensure_docker(stage: Reporter) -> None:
    """Return when a Docker answers that can build our images: the one there is, else Debian's, started here.

    Raises CliError where that needs root or systemd refuses.
    """
    problem = _docker_problem()
    if problem:
        _need_root(problem)
        if not shutil.which("dockerd"):
            stage.update("installing Docker from Debian")
            install_packages("docker.io", "iptables")
        if _docker_problem():
            _start_docker(stage)
    docker()


def docker() -> str:
    """Return the path of a Docker client that can build with BuildKit (RUN --mount)."""
    return _docker_client()


@functools.cache
def _docker_client() -> str:
    known = (shutil.which("docker"), "/usr/bin/docker")
    candidates = [path for path in known if path and Path(path).exists()]
    for path in candidates:
        if _builds(path):
            return path
    if not candidates:
        raise CliError("docker was not found", "install Docker, then run the command again")
    raise CliError(
        f"{candidates[0]} cannot build images: its buildx plugin is missing",
        "install the package docker-buildx-plugin or Debian's docker.io, then run the command again",
    )


def _builds(path: str) -> bool:
    if run([path, "buildx", "version"], check=False).returncode == 0:
        return True
    # Until 22.06 the client itself spoke BuildKit; from 23.0 on only the plugin does.
    version = run([path, "version", "--format", "{{.Client.Version}}"], check=False).stdout
    return version.partition(".")[0].isdigit() and int(version.partition(".")[0]) < 23


def install_packages(*packages: str) -> None:
    """Install Debian packages. Raises CliError without root or apt-get."""
    names = " ".join(packages)
    if not shutil.which("apt-get"):
        raise CliError(f"missing on this machine: {names}", f"install {names}, then run the command again")
    _need_root(f"missing on this machine: {names}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    with _installing:  # dpkg takes one at a time
        run(["apt-get", "update", "-qq"], env=quiet, log="apt")
        run(install, env=quiet, log="apt")


def check_disk(min_gib: float) -> None:
    """Raise CliError unless Docker's and the cache's file systems each have ``min_gib`` GiB free."""
    for directory in (paths.HOME, Path("/var/lib/docker")):
        existing = next(each for each in (directory, *directory.parents) if each.exists())
        try:
            free = shutil.disk_usage(existing).free / 2**30
        except PermissionError:
            continue
        if free < min_gib:
            raise CliError(
                f"{directory} has {free:.1f} GiB of disk space left, {min_gib:g} GiB are needed",
                "free space there (docker system prune removes unused images), or set TRAINYARD_HOME",
            )


def check_port(port: int) -> None:
    """Raise CliError when something on this machine already listens on ``port``."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CliError(
                f"port {port} is in use ({error.strerror})",
                f"end what listens there (ss -ltnp 'sport = :{port}' names it), or choose another port",
            ) from error


def stop_docker() -> bool:
    """End the dockerd that ``ensure_docker`` started, and only that one; return whether there was one."""
    pid = _own_dockerd()
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DOCKER_STOP_SECONDS
    while Path(f"/proc/{pid}").exists() and not _is_zombie(pid):
        if time.monotonic() > deadline:
            raise CliError(f"dockerd (process {pid}) does not end", f"see {DOCKERD_LOG}")
        time.sleep(0.2)
    DOCKERD_PID.unlink(missing_ok=True)
    return True


def _docker_problem() -> str:
    """Return why Docker cannot be used, "" when it answers."""
    if not shutil.which("docker"):
        return "Docker is not installed"
    result = run(["docker", "info", "--format", "{{.ServerVersion}}"], check=False, timeout=60)
    if result.returncode == 0 and result.stdout.strip():
        return ""
    return (result.stderr.strip().splitlines() or ["Docker does not answer"])[-1]


def _need_root(problem: str) -> None:
    if os.geteuid() != 0:
        raise CliError(
            problem,
            "start Docker and let this user reach it (group docker), or run as root, which sets it up",
        )


def _start_docker(stage: Reporter) -> None:
    if Path("/run/systemd/system").is_dir():
        stage.update("starting Docker through systemd")
        run(["systemctl", "start", "docker"], log="dockerd")
        return
    options = _runtime_options(stage)
    stage.update("starting dockerd")
    if _own_dockerd() is None:
        DOCKERD_PID.unlink(missing_ok=True)
    _forget_stale_containerd()
    for directory in (paths.LOGS, paths.STATE):
        directory.mkdir(parents=True, exist_ok=True)
    with DOCKERD_LOG.open("a") as log:
        # A session of its own: dockerd outlives this command and takes no Ctrl-C meant for it.
        process = subprocess.Popen(
            ["dockerd", "--pidfile", str(DOCKERD_PID), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + DOCKER_START_SECONDS
    while _docker_problem():
        if process.poll() is not None or time.monotonic() > deadline:
            written = DOCKERD_LOG.read_text(errors="replace")[-10_000:]
            raise failure(
                subprocess.CompletedProcess(process.args, process.poll() or 1, written), DOCKERD_LOG
            )
        time.sleep(0.3)


def _runtime_options(stage: Reporter) -> list[str]:
    """Return dockerd's options for a runtime that trims capabilities, where this host lacks some."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    lacking = bounded_runc.missing(Path("/proc/self/status").read_text(), last)
    if not lacking or "default-runtime" in _daemon_config():
        return []
    stage.update(f"this host lacks {', '.join(sorted(lacking))}: containers will do without")
    return ["--add-runtime", f"bounded={_install_bounded_runc()}", "--default-runtime", "bounded"]


def _daemon_config() -> dict[str, object]:
    try:
        return json.loads(DAEMON_CONFIG.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CliError(f"{DAEMON_CONFIG} is not JSON: {error}", "correct that file") from error


def _install_bounded_runc() -> Path:
    """Copy the runtime to where it outlives this checkout and its virtual environment; return its path."""
    directory = paths.STATE / "runtime"
    directory.mkdir(parents=True, exist_ok=True)
    source = directory / "bounded_runc.py"
    shutil.copyfile(bounded_runc.__file__, source)
    launcher = directory / "bounded-runc"
    launcher.write_text(f'#!/bin/sh\nexec {Path(sys.executable).resolve()} -I -S {source} "$@"\n')
    launcher.chmod(0o755)
    return launcher


def _forget_stale_containerd() -> None:
    pid = _read_pid(CONTAINERD_PID)
    if pid is not None and _program(pid) != "containerd":
        CONTAINERD_PID.unlink(missing_ok=True)


def _own_dockerd() -> int | None:
    pid = _read_pid(DOCKERD_PID)
    return pid if pid is not None and _program(pid) == "dockerd" and not _is_zombie(pid) else None


def _read_pid(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return False
