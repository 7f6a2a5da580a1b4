"""What cannot read versions.yaml repeats its versions: every such place agrees with it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from trainyard_cli import node_image, paths, toolchain, versions
from trainyard_cli.versions import VERSIONS

CHARTS = sorted(paths.ROOT.glob("charts/**/Chart.yaml"))
LOCKS = [*paths.ROOT.glob("images/*/requirements*.txt"), *paths.ROOT.glob("scripts/requirements*.txt")]
DOCKERFILES = sorted(paths.ROOT.glob("images/*/Dockerfile"))
APP_VERSIONS = {
    "trainyard": VERSIONS.trainyard,
    "common": VERSIONS.trainyard,
    "airflow": VERSIONS.airflow,
    "mlflow": VERSIONS.mlflow,
    "postgresql": VERSIONS.postgresql,
    "versitygw": VERSIONS.versitygw,
    "nvidia-device-plugin": VERSIONS.nvidia_device_plugin,
}
TAGS = {
    "apache/airflow": VERSIONS.airflow,
    "trainyard/airflow": VERSIONS.trainyard,
    "trainyard/dags": VERSIONS.trainyard,
    "trainyard/dag-publisher": VERSIONS.trainyard,
    "trainyard/trainer": VERSIONS.trainyard,
    "trainyard/mlflow": VERSIONS.mlflow,
    "trainyard/versitygw": VERSIONS.versitygw,
    "postgres": VERSIONS.postgresql,
    "nvcr.io/nvidia/k8s-device-plugin": f"v{VERSIONS.nvidia_device_plugin}",
}
PGBOUNCER = f"airflow-pgbouncer-{VERSIONS.pgbouncer}"
STATSD = "quay.io/prometheus/statsd-exporter"
# Their digests could not be verified where this was written. Once Renovate has added one, take it off here.
UNPINNED = {
    VERSIONS.base_image,
    f"postgres:{VERSIONS.postgresql}",
    f"kindest/node:v{VERSIONS.kubernetes}",
    f"apache/airflow:{VERSIONS.airflow}",
    f"apache/airflow:{PGBOUNCER}",
    f"{STATSD}:v{VERSIONS.statsd_exporter}",
    f"nvcr.io/nvidia/k8s-device-plugin:v{VERSIONS.nvidia_device_plugin}",
}


def relative(path: Path) -> str:
    return str(path.relative_to(paths.ROOT))


@pytest.mark.parametrize("file", CHARTS, ids=relative)
def test_charts_are_of_the_platforms_version_and_name_that_of_their_application(file: Path) -> None:
    chart = yaml.safe_load(file.read_text())
    assert chart["version"] == VERSIONS.trainyard
    assert chart["appVersion"] == APP_VERSIONS[chart["name"]]
    for dependency in chart.get("dependencies", []):
        assert dependency["version"] in ("*", VERSIONS.trainyard), dependency["name"]


def images(values: Any) -> Iterator[tuple[str, str]]:
    """Every repository with its tag, wherever it stands in the values."""
    if isinstance(values, dict):
        if values.get("repository") and "tag" in values:
            yield values["repository"], values["tag"]
        for value in values.values():
            yield from images(value)


def test_charts_default_to_these_versions_of_the_images() -> None:
    found: set[tuple[str, str]] = set()
    for chart in CHARTS:
        file = chart.with_name("values.yaml")
        found.update(images(yaml.safe_load(file.read_text())) if file.exists() else ())
    # An empty tag stands for the chart's appVersion.
    named = {(repository, tag or TAGS[repository]) for repository, tag in found}
    assert named == {*TAGS.items(), ("apache/airflow", PGBOUNCER), (STATSD, f"v{VERSIONS.statsd_exporter}")}


def test_the_production_example_takes_the_platforms_images() -> None:
    found = dict(images(yaml.safe_load((paths.ROOT / "values/production.yaml").read_text())))
    assert found
    assert {tag.removesuffix("-cuda") for tag in found.values()} == {VERSIONS.trainyard}


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("apache-airflow", VERSIONS.airflow),
        ("mlflow", VERSIONS.mlflow),
        ("mlflow-skinny", VERSIONS.mlflow),
        ("mlflow-tracing", VERSIONS.mlflow),
    ],
)
def test_lock_files_agree(package: str, version: str) -> None:
    locked = {
        relative(lock): found[1]
        for lock in LOCKS
        if (found := re.search(rf"^{package}==(\S+)", lock.read_text(), re.M))
    }
    assert locked, f"no lock file holds {package}"
    assert locked == dict.fromkeys(locked, version)


@pytest.mark.parametrize(
    ("file", "pattern", "version"),
    [
        ("images/airflow/requirements.in", r"^apache-airflow\S*==(\S+)", VERSIONS.airflow),
        ("images/versitygw/go/go.mod", r"versity/versitygw v(\S+)", VERSIONS.versitygw),
        (
            "images/statsd-exporter/go/go.mod",
            r"prometheus/statsd_exporter v(\S+)",
            VERSIONS.statsd_exporter,
        ),
        ("images/argocd/go/go.mod", r"argoproj/argo-cd/v3 v(\S+)", VERSIONS.argocd),
        ("images/kueue/go/go.mod", r"sigs.k8s.io/kueue v(\S+)", VERSIONS.kueue),
        ("pyproject.toml", r'^version = "(.+)"', VERSIONS.trainyard),
        ("pyproject.toml", r'^requires-python = ">=(.+),', VERSIONS.host_python),
        ("pyproject.toml", r'^python_version = "(.+)"', VERSIONS.host_python),
        ("pyproject.toml", r'^target-version = "(.+)"', f"py{VERSIONS.host_python.replace('.', '')}"),
        ("scripts/_python", r"in python(3\S+) ", VERSIONS.host_python),
        (".github/actions/prepare/action.yaml", r'python-version: "(.+)"', VERSIONS.host_python),
        ("docs/existing-airflow.md", r"^FROM apache/airflow:\S+-python(.+)", VERSIONS.python),
        ("images/postgres/Dockerfile", r"/build/apt-install postgresql-(\S+)", VERSIONS.postgresql),
        ("images/postgres/Dockerfile", r"postgresql/(\d+)/", VERSIONS.postgresql),
    ],
)
def test_other_places_agree(file: str, pattern: str, version: str) -> None:
    assert set(re.findall(pattern, (paths.ROOT / file).read_text(), re.M)) == {version}


@pytest.mark.parametrize("file", DOCKERFILES, ids=relative)
def test_images_start_from_the_same_base(file: Path) -> None:
    base = VERSIONS.node_base_image if file.parent == node_image.SOURCE else VERSIONS.base_image
    assert re.findall(r"^ARG BASE_IMAGE=(\S+)", file.read_text(), re.M) == [base]
    assert set(re.findall(r"lib/python(3\.\d+)/", file.read_text())) <= {VERSIONS.python}


def test_the_cluster_is_built_from_this_kubernetes() -> None:
    assert toolchain.version("kubernetes") == f"v{VERSIONS.kubernetes}"


@pytest.mark.parametrize(
    ("base", "suite"), [(node_image.BASE, "trixie"), (node_image.NODE_BASE, "bookworm")], ids=str
)
def test_the_base_that_is_made_of_packages_is_the_same_debian(base: node_image.Base, suite: str) -> None:
    assert base.built.startswith(f"trainyard/base:{suite}-")
    assert re.fullmatch(rf"debian:{suite}-\d+-slim(@sha256:[0-9a-f]{{64}})?", base.public)


def pulled_images() -> Iterator[str]:
    """Every image of a public registry: what local builds start from, and what the charts take by default."""
    yield from (VERSIONS.base_image, VERSIONS.node_base_image, VERSIONS.node_image)
    for file in CHARTS:
        chart = yaml.safe_load(file.read_text())
        values = file.with_name("values.yaml")
        digest = chart.get("annotations", {}).get("trainyard.dev/image-digest")
        for repository, tag in images(yaml.safe_load(values.read_text()) if values.exists() else {}):
            if not repository.startswith("trainyard/"):  # those are built here
                yield f"{repository}:{tag or TAGS[repository]}{f'@{digest}' if digest else ''}"


def test_what_is_pulled_is_pulled_by_digest() -> None:
    unpinned = {image for image in pulled_images() if not re.search("@sha256:[0-9a-f]{64}$", image)}
    assert unpinned == UNPINNED


def parts(image: str) -> tuple[str, str, str | None]:
    """The image's name, tag and digest."""
    tagged, _, digest = image.partition("@")
    name, _, tag = tagged.rpartition(":")
    return name, tag, digest or None


def test_renovate_finds_what_only_this_project_pins() -> None:
    """Its own managers know Go modules, Dockerfiles and workflows; these are its regular expressions."""
    found = set()
    for manager in json.loads((paths.ROOT / "renovate.json").read_text())["customManagers"]:
        (files,) = manager["managerFilePatterns"]
        for file in (versions.FILE, *CHARTS):
            if re.search(files.strip("/").replace("\\/", "/"), relative(file)):
                for pattern in manager["matchStrings"]:
                    for match in re.finditer(pattern.replace("(?<", "(?P<"), file.read_text()):
                        groups = match.groupdict()
                        name = groups.get("depName") or manager["depNameTemplate"]
                        found.add((name, groups["currentValue"], groups.get("currentDigest")))
    postgresql = yaml.safe_load((paths.ROOT / "charts/trainyard/charts/postgresql/Chart.yaml").read_text())
    digest = postgresql.get("annotations", {}).get("trainyard.dev/image-digest")
    assert found == {
        *(parts(image) for image in (VERSIONS.base_image, VERSIONS.node_base_image, VERSIONS.node_image)),
        ("airflow", VERSIONS.airflow, None),
        ("mlflow", VERSIONS.mlflow, None),
        ("nvidia-device-plugin", VERSIONS.nvidia_device_plugin, None),
        ("postgres", VERSIONS.postgresql, digest),
    }


def test_the_cluster_is_pulled_in_the_version_that_is_built() -> None:
    assert VERSIONS.node_image.partition("@")[0] == f"kindest/node:v{VERSIONS.kubernetes}"


def test_go_modules_share_the_versions_of_what_they_share() -> None:
    """Otherwise each compiles client-go and the like again: images/kind-node/go/sync aligns them.

    Kubernetes is left out: its go.mod ties it to its own libraries. So is what is built by itself.
    """
    versions: dict[str, set[str]] = {}
    for file in toolchain.GO_MODULES.glob("*/go.mod"):
        if file.parent.name not in (
            "kubernetes",
            "kind",
            "actionlint",
            "syft",
            "kube-score",
            "controller-gen",
        ):
            for module, version in re.findall(r"^\s*(?:require )?(\S+) (v\S+)", file.read_text(), re.M):
                versions.setdefault(module, set()).add(version)
    assert {module: found for module, found in versions.items() if len(found) > 1} == {}
