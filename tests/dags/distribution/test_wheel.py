"""What the wheel holds, and that the same sources make the same bytes."""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from email.message import Message
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from clean_environment import ROOT, build
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from trainyard import airflow_compat

pytest_plugins = ("clean_environment",)
LIBRARY = ROOT / "library"
CARRIED = ("trainyard", "trainyard_contract.py")


@pytest.fixture
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def sources() -> Iterator[Path]:
    for name in CARRIED:
        path = LIBRARY / name
        found = path.rglob("*") if path.is_dir() else [path] if path.exists() else []
        yield from (each for each in found if each.is_file() and "__pycache__" not in each.parts)


def test_it_carries_the_library_and_no_dag(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert carried == {str(path.relative_to(LIBRARY)) for path in sources()}
    assert {"trainyard/py.typed", "trainyard/factory/model.schema.json"} <= carried


def test_it_carries_the_projects_licence(wheel: Path, metadata: Message) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
        assert archive.read(name) == (ROOT / "LICENSE").read_bytes()
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_same_sources_make_the_same_bytes(wheel: Path, backend: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for name in (*CARRIED, "pyproject.toml", "LICENSE"):
        if (LIBRARY / name).is_dir():
            shutil.copytree(LIBRARY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (LIBRARY / name).exists():
            shutil.copyfile(LIBRARY / name, copy / name)
    for path in copy.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert build(backend, copy, tmp_path / "wheel").read_bytes() == wheel.read_bytes()


def test_it_requires_what_the_library_imports(metadata: Message) -> None:
    required = {
        canonicalize_name(each.name): each.specifier
        for each in map(Requirement, metadata.get_all("Requires-Dist", []))
    }
    # Private APIs of Airflow may change with its next minor release.
    tried = Version(airflow_compat.AIRFLOW_VERSION)
    assert required["apache-airflow"] == SpecifierSet(f">={tried},<{tried.major}.{tried.minor + 1}")
    distributions = packages_distributions()
    assert required.keys() == {_distribution(module, distributions) for module in _imported()}


def _imported() -> Iterator[str]:
    """The modules that are neither the library's own nor the standard library's."""
    own_and_standard = {"trainyard", "trainyard_contract", *sys.stdlib_module_names}
    for path in sources():
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            yield from (name for name in names if name.partition(".")[0] not in own_and_standard)


def _distribution(module: str, distributions: Mapping[str, list[str]]) -> str:
    provider = re.match(r"airflow\.providers\.(amazon|standard|cncf\.kubernetes)\b", module)
    if provider:
        return canonicalize_name(f"apache-airflow-providers-{provider[1]}")
    top = module.partition(".")[0]
    if top == "airflow":
        return "apache-airflow"
    (name,) = set(distributions[top])
    return canonicalize_name(name)


def test_every_lower_bound_holds_for_the_locked_packages(metadata: Message) -> None:
    lock = (ROOT / "images/airflow/requirements.txt").read_text()
    locked = {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)", lock, re.M)
    }
    for line in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(line)
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, line


def test_the_build_backend_is_the_locked_one() -> None:
    requires = tomllib.loads((LIBRARY / "pyproject.toml").read_text())["build-system"]["requires"]
    lock = (ROOT / "images/airflow/requirements-build.txt").read_text()
    for requirement in map(Requirement, requires):
        (version,) = re.findall(rf"^{requirement.name}==(\S+)", lock, re.M)
        assert version in requirement.specifier
