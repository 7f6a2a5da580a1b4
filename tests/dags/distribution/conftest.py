"""The library as its wheel, in an environment of the locked packages of Airflow's image and nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from clean_environment import LOCKS, ROOT, Installed, build, make_environment, uv


@pytest.fixture(scope="session")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python with the build backend that the image is built with."""
    return make_environment(tmp_path_factory.mktemp("build"), LOCKS / "requirements-build.txt") / "python"


@pytest.fixture(scope="session")
def wheel(backend: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(backend, ROOT / "dags", tmp_path_factory.mktemp("wheel"))


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
