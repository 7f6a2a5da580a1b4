"""Installs the chart on the kind cluster and waits for it, telling what is not ready and why."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from . import chart, cluster, helm_release, paths, workloads
from .errors import CliError
from .kube import Kube
from .names import NAMESPACE, RELEASE
from .objects import Identity
from .shell import run
from .stages import Stage
from .toolchain import Tools

Json = dict[str, Any]

TRAINING_NAMESPACE = "ml-training"
OWN_NAMESPACES = (NAMESPACE, TRAINING_NAMESPACE, "nvidia-device-plugin")
# Which key of the chart's values takes which image.
IMAGE_KEYS = {
    "airflow": ("airflow", "images", "airflow"),
    "dags": ("airflow", "dags", "image"),
    "dag-publisher": ("airflow", "dags", "git", "image"),
    "mlflow": ("mlflow", "image"),
    "postgres": ("postgresql", "image"),
    "gpu-simulator": ("nvidia-device-plugin", "image"),
    "trainer": ("training", "image"),
    "versitygw": ("versitygw", "image"),
}
READY_SECONDS = 600
STUCK_SECONDS = 30


def generated_values(images: dict[str, str], ports: cluster.Ports, given: Json) -> Json:
    """Return the chart values that are known here only: images, and what depends on this machine."""
    return chart.merge(local_values(images, ports, given), image_values(images))


def image_values(images: dict[str, str]) -> Json:
    """Return the chart values that name the images."""
    parts = {name: images[name].rpartition(":") for name in IMAGE_KEYS}
    found = {name: {"repository": first, "tag": tag} for name, (first, _, tag) in parts.items()}
    # PostgreSQL's image has Debian's PgBouncer as well.
    pgbouncer = {"airflow": {"images": {"pgbouncer": dict(found["postgres"])}}}
    return chart.merge(at_their_keys(found), pgbouncer)


def at_their_keys(images: Mapping[str, Json]) -> Json:
    """Return chart values that hold what is given for each image."""
    values: Json = {}
    for name, fields in images.items():
        level = values
        for key in IMAGE_KEYS[name]:
            level = level.setdefault(key, {})
        level.update(fields)
    return values


def local_values(images: dict[str, str], ports: cluster.Ports, given: Json) -> Json:
    """Return the chart values that depend on this machine: its ports, and which trainer it has.

    ``given`` are the other values, whose lists must not get lost.
    """
    hosts = [f"{name}:{ports.mlflow}" for name in ("localhost", "127.0.0.1")]
    return {
        "airflow": {
            "config": {"api": {"base_url": f"http://localhost:{ports.airflow}"}},
            # Pods that launch training see a changed ConfigMap late: another trainer replaces them.
            "airflowPodAnnotations": {"trainyard.dev/trainer": images["trainer"]},
        },
        "training": {"trackingUiUrl": f"http://localhost:{ports.mlflow}"},
        "mlflow": {"allowedHosts": [*given.get("mlflow", {}).get("allowedHosts", []), *hosts]},
    }


def check_values(files: list[Path]) -> None:
    """Refuse a values file that is missing, not YAML or not a mapping; it takes no tool."""
    for file in files:
        if not file.is_file():
            raise CliError(f"values file {file} does not exist", "name an existing file with --values")
    chart.read_values((*chart.VALUES, *files))


def checked_pools(helm: Path, files: list[Path]) -> dict[str, Json]:
    """Return the GPU pools of these values. A wrong key is told now, before anything slow."""
    names = dict.fromkeys(IMAGE_KEYS, "checked/values:only")
    pools = chart.gpu_pools(helm, _with_generated(names, cluster.Ports(), files))
    cluster.check_names(pools)
    return pools


def rendered(tools: Tools, images: dict[str, str], files: list[Path]) -> str:
    """Return the objects that Helm would install, as YAML."""
    return chart.helm(tools.helm, "template", _with_generated(images, cluster.ports(), files))


def install(
    stage: Stage,
    made: cluster.Cluster,
    tools: Tools,
    images: dict[str, str],
    files: list[Path],
    *,
    take_ownership: bool = False,
) -> None:
    """Install or upgrade the release and return when every workload is ready; goes on after a break.

    ``take_ownership`` makes objects that somebody else has installed the release's own.
    """
    stage.update("namespaces and shared volumes")
    run([*made.kubectl(tools), "apply", "--server-side", "-f", "-"], input=yaml.safe_dump(_namespace()))
    make_shared_volumes(made, tools, files)
    upgrade(stage, made, tools, images, files, take_ownership=take_ownership)


def upgrade(
    stage: Stage,
    made: cluster.Cluster,
    tools: Tools,
    images: dict[str, str],
    files: list[Path],
    *,
    root: Path = paths.ROOT,
    take_ownership: bool = False,
) -> None:
    """Make the release what the chart in ``root`` says and return when every workload is ready."""
    kube = Kube(made.kubeconfig)
    _recover(kube, stage)
    stage.update("helm upgrade --install")
    # What an upgrade that fails has made, no later one would delete.
    options = ["--install", "--cleanup-on-fail", f"--kubeconfig={made.kubeconfig}", "--history-max=5"]
    options += ["--take-ownership"] if take_ownership else []
    chart.helm(tools.helm, "upgrade", _with_generated(images, cluster.ports(), files), options, root=root)
    wait_for_workloads(kube, stage)


def make_shared_volumes(made: cluster.Cluster, tools: Tools, files: Iterable[Path]) -> None:
    """Make the volumes that pods on several nodes share, for claims that need not exist yet."""
    wanted = cluster.shared_volumes(chart.read_values((*chart.VALUES, *files)))
    cluster.make_shared_directories(one for one in wanted if one["kind"] == "PersistentVolume")
    run([*made.kubectl(tools), "apply", "--server-side", "-f", "-"], input=yaml.safe_dump_all(wanted))
    _rebind_volumes(Kube(made.kubeconfig))


def manifests(directory: Path, images: dict[str, str]) -> Iterator[Json]:
    """Return the objects of a directory in manifests/kind, with the images that were built."""
    for file in sorted(directory.glob("*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text()):
            pods = manifest.get("spec", {}).get("template", {}).get("spec", {})
            for container in pods.get("containers", []):
                container["image"] = images[container["image"].removeprefix("trainyard/")]
            yield manifest


def _with_generated(images: dict[str, str], ports: cluster.Ports, files: list[Path]) -> list[Path]:
    """Write the values that are known here only; return ``files`` with that file after them."""
    generated = paths.STATE / "values.yaml"
    generated.parent.mkdir(parents=True, exist_ok=True)
    given = chart.read_values((*chart.VALUES, *files))
    generated.write_text(yaml.safe_dump(generated_values(images, ports, given)))
    return [*files, generated]


def _namespace() -> Json:
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}


def _rebind_volumes(kube: Kube) -> None:
    """Make a shared volume whose claim was deleted available to the new claim of the same name."""
    for volume in kube.items("/api/v1/persistentvolumes"):
        claim = volume["spec"].get("claimRef", {})
        if (
            volume["spec"].get("storageClassName") == "trainyard-shared"
            and volume["status"]["phase"] == "Released"
        ):
            patch = {"spec": {"claimRef": {**claim, "uid": None, "resourceVersion": None}}}
            kube.patch(f"/api/v1/persistentvolumes/{volume['metadata']['name']}", patch)


def _recover(kube: Kube, stage: Stage) -> None:
    """Drop the record of an installation that was broken off: helm refuses to go on while it says `pending`.

    The objects it made stay, and the next installation adopts them.
    """
    for path, secret in helm_release.records(kube, NAMESPACE, RELEASE).items():
        labels = secret["metadata"]["labels"]
        if labels["status"].startswith("pending-") or labels["status"] == "uninstalling":
            stage.update(
                f"revision {labels['version']} was broken off ({labels['status']}): going on from there"
            )
            kube.delete(path)


# ---- waiting


def wait_for_workloads(
    kube: Kube,
    stage: Stage,
    namespaces: tuple[str, ...] = OWN_NAMESPACES,
    *,
    only: Collection[Identity] | None = None,
) -> None:
    """Return when the workloads of the namespaces are ready; CliError with the cause when one is stuck.

    They are all of them, or those in ``only``.
    """
    deadline = time.monotonic() + READY_SECONDS
    stuck_since: dict[str, float] = {}
    while unready := [
        each for each in workloads.unready(kube, namespaces) if only is None or each.identity in only
    ]:
        now = time.monotonic()
        stage.update(f"{len(unready)} not ready yet; {unready[0].name}: {unready[0].why}")
        stuck_since = {each.name: stuck_since.get(each.name, now) for each in unready if each.stuck}
        failed = [each for each in unready if now - stuck_since.get(each.name, now) > STUCK_SECONDS]
        if failed or now > deadline:
            raise workloads.not_ready(kube, (failed or unready)[0])
        time.sleep(1)


# ---- what the other commands ask


def airflow_url() -> str:
    """Return where Airflow answers on this machine."""
    return f"http://localhost:{cluster.ports().airflow}"


def mlflow_url() -> str:
    """Return where MLflow answers on this machine."""
    return f"http://localhost:{cluster.ports().mlflow}"


def dag_processor_started(kube: Kube) -> str:
    """Return when the present DAG processor started, in ISO 8601: a DAG parsed later is the released one."""
    pods = kube.items(f"/api/v1/namespaces/{NAMESPACE}/pods", labelSelector="component=dag-processor")
    started = [
        status["state"]["running"]["startedAt"]
        for pod in pods
        for status in pod.get("status", {}).get("containerStatuses", [])
        if "running" in status.get("state", {})
    ]
    if not started:
        raise CliError("the DAG processor does not run", "./scripts/up checks the platform and repairs it")
    return max(started)
