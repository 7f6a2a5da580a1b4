"""Fixtures: the library's wheel, in an environment of Airflow's locked packages and nothing else.

A plugin of the test modules rather than a conftest.py: other tests import the `conftest` one level up.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from airflow_command import COMMANDS

ROOT = Path(__file__).parents[3]
LOCKS = ROOT / "images/airflow"
HOME = Path(os.environ.get("TRAINYARD_HOME") or Path.home() / ".cache/trainyard")
UV = shutil.which("uv") or str(HOME / "uv-venv/bin/uv")
# What only the image's Python needs, which is newer than that of the tests.
NEWER = "pyyaml-ft\n"
UV_ENVIRONMENT = {"UV_CACHE_DIR": str(HOME / "uv"), **os.environ}


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and a DAG folder that holds no copy of the library."""

    programs: Path
    dags: Path
    environment: Mapping[str, str]

    def run(self, *command: str, **environment: str) -> str:
        """Run a program of the environment; return what it wrote to both outputs."""
        done = subprocess.run(
            [self.programs / command[0], *command[1:]],
            env={**self.environment, **environment},
            cwd=self.dags.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-5000:]
        return done.stdout

    def airflow(self, *commands: str) -> str:
        """What Airflow's command line prints for these commands."""
        return self.run("python", "-c", COMMANDS, *commands)

    def python(self, code: str, **environment: str) -> list[str]:
        """The last line that the code prints, in words: Airflow may log before it."""
        return self.run("python", "-c", code, **environment).splitlines()[-1].split()


def make_environment(directory: Path, lock: Path) -> Path:
    """Make a virtual environment of exactly the locked packages; return its directory of programs."""
    python = directory / "bin/python"
    uv("venv", "--quiet", "--python", sys.executable, directory)
    (directory / "excludes.txt").write_text(NEWER)
    options = ("--no-deps", "--require-hashes", "--excludes", directory / "excludes.txt")
    install = ("pip", "install", "--quiet", "--python", python, *options, "-r", lock)
    try:
        uv(*install, "--offline")  # they are in the cache that the tests' own environment was made from
    except subprocess.CalledProcessError:
        uv(*install)
    return python.parent


def uv(*arguments: str | Path) -> None:
    subprocess.run([UV, *map(str, arguments)], env=UV_ENVIRONMENT, check=True)


def build(backend: Path, source: Path, target: Path) -> Path:
    """Build the wheel as images/airflow/Dockerfile does."""
    options = ("--quiet", "--offline", "--wheel", "--no-build-isolation", "--python", backend)
    uv("build", *options, "--out-dir", target, source)
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python with the build backend that the image is built with."""
    return make_environment(tmp_path_factory.mktemp("build"), LOCKS / "requirements-build.txt") / "python"


@pytest.fixture(scope="session")
def wheel(backend: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(backend, ROOT / "library", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    directory = tmp_path_factory.mktemp("airflow")
    programs = make_environment(directory / "venv", LOCKS / "requirements.txt")
    wanted = ("--offline", "--no-deps", wheel)
    uv("pip", "install", "--quiet", "--python", programs / "python", *wanted)
    dags = directory / "dags"
    (dags / "models").mkdir(parents=True)
    shutil.copy(ROOT / "dags/digits_training.py", dags)
    shutil.copy(ROOT / "dags/models/churn.yaml", dags / "models")
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(directory),
        "LANG": "C.UTF-8",
        "AIRFLOW_HOME": str(directory / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "TRAINYARD_PLATFORM": str(ROOT / "tests/dags/platform.json"),
    }
    return Installed(programs, dags, environment)
