"""The platform on kind as a whole: bring it up, reach it when it is there, take it down."""

from __future__ import annotations

import atexit
import fcntl
import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import (
    argocd_build,
    cluster,
    gitops,
    host,
    images,
    kueue,
    kueue_build,
    node_image,
    parallel,
    paths,
    release,
    toolchain,
)
from .airflow_api import Airflow
from .errors import CliError
from .kube import Kube, secret
from .mlflow_api import Login, Mlflow
from .shell import run
from .stages import Stage, Stages

# A cluster, its images and what they are built from; and what a running platform needs to go on.
FRESH_DISK_GIB = 20
DISK_GIB = 2
ADMIN_SECRET = "trainyard-admin"
MLFLOW_ADMIN_SECRET = "trainyard-mlflow-login-admin"
# What lies in TRAINYARD_HOME beside the state.
CACHED = (
    *("base-*", "bin", "build", "charts", "go", "logs", "mypy", "pip-audit", "reports-*", "sbom", "uv"),
    *("lock", "go.lock"),
)
ENVIRONMENTS = ("venv-*", "uv-venv", "venv.lock")


@dataclass(frozen=True)
class Platform:
    """A running platform and its clients."""

    kube: Kube
    airflow: Airflow
    mlflow: Mlflow
    username: str
    password: str


@dataclass(frozen=True)
class Way:
    """How the release gets onto the cluster.

    ``gitops``: Argo CD syncs it from git, else Helm installs it. ``take_ownership``: Helm takes over what
    Argo CD syncs. ``with_argocd``: Argo CD's images are built as well, for somebody who wants them later.
    """

    gitops: bool = False
    take_ownership: bool = False
    with_argocd: bool = False


BY_HELM = Way()


def bring_up(
    stages: Stages, ports: cluster.Ports, values: list[Path], *, remake: bool, way: Way = BY_HELM
) -> Platform:
    """Make everything that is missing and return the platform when all of it is ready."""
    with stages("checks"):
        release.check_values(values)
        if ports.airflow == ports.mlflow:
            raise CliError(
                f"Airflow and MLflow cannot both have port {ports.mlflow}", "give one another port"
            )
    with stages("values") as stage:
        queued = kueue.is_wanted(release.checked_pools(toolchain.helm(stage), values).values())
    with stages("docker") as stage:
        host.ensure_docker(stage)
        if not _has_nodes():
            host.check_disk(FRESH_DISK_GIB)
            host.check_port(ports.airflow)
            host.check_port(ports.mlflow)
        host.check_disk(DISK_GIB)
    with stages("build") as stage:
        used = [images.KUEUE] * queued + [images.ARGOCD] * way.gitops
        later = [images.ARGOCD] if way.with_argocd and not way.gitops else []
        tools, built = _build(stage, used + later)
    with stages("cluster") as stage:
        made = cluster.ensure(stage, ports, values, remake=remake)
        toolchain.forget_sources()
        if not way.gitops:
            gitops.check_owner(Kube(made.kubeconfig), take_ownership=way.take_ownership)
    with stages("images") as stage:
        load = images.ensure_loaded
        loaded = images.wanted(*used)
        loads = [functools.partial(load, name=name, image=built[name], cluster=made) for name in loaded]
        parallel.run_all(stage, loads, at_once=2)
    if queued:
        with stages("kueue") as stage:
            kueue.install(stage, made, tools, built)
    if way.gitops:
        with stages("argo cd") as stage:
            gitops.start(stage, made, tools, built)
        with stages("release") as stage:
            gitops.release_from_git(stage, made, tools, built, values)
    else:
        with stages("release") as stage:
            gitops.give_back(stage, made, tools, built, values)
            release.install(stage, made, tools, built, values, take_ownership=way.take_ownership)
    return connect()


def _build(stage: Stage, beside: list[str]) -> tuple[toolchain.Tools, dict[str, str]]:
    """Make the tools, the node image and all images; return the tools, and name -> image.

    ``beside`` names what is wanted beside the release.

    From nothing, this is most of what bringing up the platform takes. Compilers keep the processors busy, an
    image's build mostly waits for downloads: two of each at a time. Argo CD comes last, and leaves the
    processors to the others.
    """
    names = images.wanted(*beside)
    image_builds = [functools.partial(images.ensure_built, name=name) for name in names]
    work: list[parallel.Work] = [toolchain.ensure, node_image.ensure, *image_builds]
    definitions = {images.ARGOCD: argocd_build.crds, images.KUEUE: kueue_build.definitions}
    work += [definitions[each] for each in beside]
    tools, _, *references = parallel.run_all(stage, work, at_once=4)
    # Behind the images' references are the files of Kueue's and Argo CD's definitions.
    return tools, dict(zip(names, references[: len(names)], strict=True))


def _has_nodes() -> bool:
    """Tell whether there are nodes of ours, complete cluster or not: they hold their ports themselves."""
    label = f"label=io.x-k8s.kind.cluster={cluster.NAME}"
    return bool(run([host.docker(), "ps", "--all", "--quiet", "--filter", label]).stdout.strip())


def connect() -> Platform:
    """Return the platform that runs; CliError where there is none."""
    if not paths.KUBECONFIG.is_file():
        raise CliError("there is no cluster", "./scripts/up makes one")
    kube = Kube(paths.KUBECONFIG)
    admin = secret(kube, release.NAMESPACE, ADMIN_SECRET)
    if admin is None:
        raise CliError("the platform is not installed on the cluster", "./scripts/up installs it")

    def mlflow_login() -> Login | None:
        found = secret(
            kube, release.NAMESPACE, MLFLOW_ADMIN_SECRET
        )  # none where mlflow.auth.enabled is false
        return (found["username"], found["password"]) if found else None

    return Platform(
        kube=kube,
        airflow=Airflow(release.airflow_url(), admin["username"], admin["password"]),
        mlflow=Mlflow(release.mlflow_url(), mlflow_login),
        username=admin["username"],
        password=admin["password"],
    )


def take_down(stages: Stages, *, purge: bool) -> None:
    """Remove the cluster, its state and the Docker daemon started here; with `purge` images and cache."""
    with stages("cluster") as stage:
        cluster.delete(stage, shared_volumes=True)
    if purge:
        with stages("images"):
            _remove_images()
    with stages("docker"):
        host.stop_docker()
    with stages("state"):
        _remove(paths.STATE)
    if purge:
        with stages("cache"):
            _remove_cache()


def _remove(*found: Path) -> None:
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _remove_images() -> None:
    found = run(
        [host.docker(), "images", "--format", "{{.Repository}}:{{.Tag}}", "trainyard/*"]
    ).stdout.split()
    if found:
        run([host.docker(), "rmi", "--force", *found])


def _remove_cache() -> None:
    """Remove what this project put into its directory, by name: a user may have named a shared one."""
    _remove(*(path for name in CACHED for path in paths.HOME.glob(name)))
    # The environment that this very process runs in goes last, when nothing more is imported.
    atexit.register(_remove, *(path for name in ENVIRONMENTS for path in paths.HOME.glob(name)))


@contextmanager
def only_one(doing: str = "changing the cluster", lock_file: Path | None = None) -> Iterator[None]:
    """Keep two commands from ``doing`` the same thing at once, by default from changing the same cluster."""
    lock_file = lock_file or paths.HOME / "lock"
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            cure = "wait until it has ended, or end it"
            raise CliError(f"another command is {doing} (process {lock.read()})", cure) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
