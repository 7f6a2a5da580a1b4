"""The project's images: built when what they are made of changed, loaded onto the nodes that use them."""

import contextlib
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import argocd_build, host, image_archive, kueue_build, node_image, paths, program_context
from .cluster import Cluster
from .errors import CliError
from .git import last_change
from .shell import run
from .stages import Reporter

CPU = "cpu"
GPU = "gpu"
ARGOCD = "argocd"
KUEUE = "kueue"
KEPT_TAGS = 2
"""How many tags of most images stay, in Docker and in the nodes: the current one and the one before."""

SHARED_INPUTS = (
    ".dockerignore",
    *(
        f"images/python/{file}"
        for file in (
            "apt-install",
            "apt-record",
            "compile",
            "network",
            "uv-bootstrap",
            "uv-install",
            "uv.txt",
        )
    ),
)
IGNORED_NAMES = {"__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache"}
BUILD_SETTINGS = (
    *("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "GOPROXY", "GOSUMDB"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
# containerd's client, in the namespace of Kubernetes.
CTR = ("ctr", "-n", "k8s.io")
CA_BUNDLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
DEFAULT_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Image:
    """What an image is built from (paths below the repository's root), and the kinds of nodes that run it.

    ``directory`` below images/ has the Dockerfile, where it is not the image's name.
    ``knows_commit``: it carries the last commit that changed what it is built from.
    ``beside`` names what it belongs to beside the release. ``kept_tags`` stay on a node, the current one
    included. A ``released`` image takes the place of a build where it can be pulled. ``context`` lays out a
    build context that is not the repository.
    """

    inputs: tuple[str, ...]
    nodes: tuple[str, ...]
    directory: str = ""
    target: str = "final"
    kept_tags: int = KEPT_TAGS
    knows_commit: bool = False
    beside: str = ""
    released: str = ""
    context: Callable[[Reporter], Path] | None = None


def _inputs(name: str, *files: str) -> tuple[str, ...]:
    return (*SHARED_INPUTS, *(f"images/{name}/{file}" for file in ("Dockerfile", *files)))


IMAGES = {
    "airflow": Image(
        (
            *_inputs("airflow", "requirements.txt", "requirements-build.txt", "entrypoint", "clean-logs"),
            "library",
        ),
        (CPU,),
    ),
    "versitygw": Image(_inputs("versitygw", "build", "go"), (CPU,)),
    "mlflow": Image(_inputs("mlflow", "requirements.txt"), (CPU,)),
    "postgres": Image(_inputs("postgres", "entrypoint"), (CPU,)),
    "trainer": Image(
        (
            *_inputs("trainer", "requirements.txt", "trainer", "unpack-torch", "src"),
            "library/trainyard_contract.py",
        ),
        (CPU, GPU),
        knows_commit=True,
    ),
    "dag-publisher": Image(_inputs("dag-publisher", "src"), (CPU,)),
    # Runs that wait for a GPU or a person go on with the DAGs that they started with.
    "dags": Image((*_inputs("dags"), "dags"), (CPU,), kept_tags=20),
    "gpu-simulator": Image(_inputs("gpu-simulator", "requirements.txt", "src"), (GPU,)),
    "kueue": Image(
        _inputs("kueue", "go"),
        (CPU,),
        beside=KUEUE,
        released=kueue_build.RELEASED,
        context=kueue_build.context,
    ),
    "redis": Image(_inputs("redis"), (CPU,), beside=ARGOCD),
    "git-server": Image(
        _inputs("git-server", "gitconfig", "lighttpd.conf", "post-receive", "serve", "sshd_config"),
        (CPU,),
        beside=ARGOCD,
    ),
    "argocd": Image(
        (*_inputs("argocd", "go"), argocd_build.HELM),
        (CPU,),
        beside=ARGOCD,
        released=argocd_build.RELEASED,
        context=argocd_build.context,
    ),
}
"""The images in the order in which they are built: the release's, the slowest first, then the others."""


VARIANTS = {
    "trainer-cuda": Image(
        (*_inputs("trainer", "requirements-cuda.txt", "trainer", "src"), "library/trainyard_contract.py"),
        (),
        directory="trainer",
        target="cuda",
        knows_commit=True,
    ),
}
"""Images that only other clusters run."""


FOR_TESTS = {
    "keycloak": Image(_inputs("keycloak", "realm.json"), (CPU,)),
    "statsd-exporter": Image(
        _inputs("statsd-exporter", "go"), (CPU,), context=program_context.statsd_exporter
    ),
}
"""Images that only nightly tests run, which build them themselves."""


def wanted(*beside: str) -> list[str]:
    """Return the names of the release's images, and of those of ARGOCD and KUEUE if they are given."""
    return [name for name, image in IMAGES.items() if image.beside in ("", *beside)]


def check_names(names: Iterable[str], *beside: str) -> None:
    """Refuse names that none of the images has which ``wanted`` returns, and no variant."""
    known = [*wanted(*beside), *VARIANTS]
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise CliError(f"there is no image {unknown}", f"the images: {', '.join(known)}")


def ensure_built(stage: Reporter, name: str) -> str:
    """Build the image where it is missing; return its reference, e.g. ``trainyard/mlflow:0123456789ab``.

    Raises CliError with the last lines of the build that failed; its whole output is in the log.
    """
    image = expected(stage, name)
    made = _image(name)
    if not node_image.present(image) and not _pulled(stage, made.released, image):
        context = made.context(stage) if made.context else paths.ROOT
        stage.update(f"building image {name}")
        base = node_image.base_image(stage)
        commit = {"GIT_COMMIT": _commit(name)} if made.knows_commit else {}
        build(made.directory or name, image, base, target=made.target, context=context, arguments=commit)
    return image


def _pulled(stage: Reporter, released: str, image: str) -> bool:
    """Pull the released image, if there is one, and give it our name."""
    if not released or not node_image.pull(stage, released):
        return False
    run([host.docker(), "tag", released, image])
    return True


def ensure_loaded(stage: Reporter, name: str, image: str, cluster: Cluster) -> None:
    """Load the image into the nodes that run it and lack it, and remove those that it replaces."""
    nodes = target_nodes(name, cluster.nodes)
    missing = [node for node in nodes if f"docker.io/{image}" not in _node_images(node)]
    if missing:
        stage.update(f"loading {name}")
        load(image, missing)
    _remove_superseded(name, image, nodes)


def expected(stage: Reporter, name: str) -> str:
    """Return the reference that the image has when it is built from the files as they are."""
    return reference(name, base_identity(node_image.base_image(stage)))


def reference(name: str, base_identity: str) -> str:
    """Return the image's reference, its tag a hash over the base image and all that the build reads.

    A commit in the image is a part of it: what was built from changed files is built anew once they are
    committed.
    """
    digest = hashlib.sha256(base_identity.encode())
    if _image(name).knows_commit:
        digest.update(f"\n{_commit(name)}".encode())
    for path in files(name):
        executable = "x" if os.access(path, os.X_OK) else "-"
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"\n{path.relative_to(paths.ROOT)} {executable} {content}".encode())
    return f"trainyard/{name}:{digest.hexdigest()[:12]}"


def files(name: str) -> list[Path]:
    """Return every file that the build of the image reads, sorted. Raises CliError where one is missing."""
    found: list[Path] = []
    for given in _image(name).inputs:
        path = paths.ROOT / given
        if not path.exists():
            raise CliError(
                f"{given} is missing, which image {name} is built from", f"restore it: git checkout {given}"
            )
        found += [path] if path.is_file() else [each for each in path.rglob("*") if _is_input(each)]
    return sorted(found)


def _commit(name: str) -> str:
    return last_change(paths.ROOT, _image(name).inputs)


def _image(name: str) -> Image:
    return {**IMAGES, **VARIANTS, **FOR_TESTS}[name]


def _is_input(path: Path) -> bool:
    return path.is_file() and path.suffix != ".pyc" and not IGNORED_NAMES.intersection(path.parts)


def base_identity(base: str) -> str:
    """Return the base image's id, or its name where Docker has not pulled it yet."""
    found = run([host.docker(), "image", "inspect", "--format", "{{.Id}}", base], check=False)
    return found.stdout.strip() if found.returncode == 0 else base


# ---- building


def build(
    name: str,
    image: str,
    base: str,
    *,
    target: str = "final",
    context: Path = paths.ROOT,
    arguments: Mapping[str, str] | None = None,
) -> None:
    """Build images/<name> as ``image``. Raises CliError with the last lines of the build's output.

    ``arguments`` are further build arguments.
    """
    command = [host.docker(), "build", "--network", "host", "--progress", "plain", "--target", target]
    command += ["--file", f"images/{name}/Dockerfile", "--tag", image, "--build-arg", f"BASE_IMAGE={base}"]
    for setting, value in {**_build_settings(), **(arguments or {})}.items():
        command += ["--build-arg", f"{setting}={value}"]
    bundle = _ca_bundle()
    if bundle:
        command += ["--secret", f"id=ca,src={bundle}"]
    try:
        run([*command, "."], cwd=context, env={"DOCKER_BUILDKIT": "1"}, log=f"image-{name}")
    except CliError as error:
        raise CliError(f"image {name} could not be built: {error.message}", error.cure) from error


def _build_settings() -> dict[str, str]:
    """Return how this machine reaches its package registry, as far as its environment says so."""
    settings = {name: os.environ.get(name) or os.environ.get(name.lower(), "") for name in BUILD_SETTINGS}
    return {name: value for name, value in settings.items() if value}


def _ca_bundle() -> Path | None:
    """Return the certificates that this machine trusts: its registry may have an authority of its own."""
    named = [Path(os.environ[name]) for name in CA_BUNDLES if os.environ.get(name)]
    return next((path for path in (*named, DEFAULT_CA_BUNDLE) if path.is_file()), None)


# ---- loading


def target_nodes(name: str, nodes: dict[str, list[str]]) -> list[str]:
    """Return the nodes that run the image. Every role beside cpu and control-plane is a GPU pool."""
    wanted = _image(name).nodes
    kinds = {role: CPU if role == CPU else GPU for role in nodes if role != "control-plane"}
    return [node for role, kind in kinds.items() if kind in wanted for node in nodes[role]]


def load(image: str, nodes: list[str]) -> None:
    """Copy an image from Docker into the nodes' containerd: saved once, all nodes at the same time.

    A node gets only the layers that it lacks, so a changed DAG does not send Airflow again.
    """
    with tempfile.TemporaryDirectory(dir=_scratch(), prefix="image-") as scratch:
        saved = Path(scratch) / "image.tar"
        run([host.docker(), "save", "--output", saved, image])
        with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
            for job in [pool.submit(_load_node, image, saved, node) for node in nodes]:
                job.result()


def _scratch() -> Path:
    paths.HOME.mkdir(parents=True, exist_ok=True)
    return paths.HOME


def _load_node(image: str, saved: Path, node: str) -> None:
    present = set(_ctr(node, "content", "ls", "--quiet").stdout.split())
    command = [host.docker(), "exec", "-i", node, *CTR, "images", "import", "--all-platforms", "-"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdin is not None
    # An import that ends early says why below.
    with contextlib.suppress(BrokenPipeError):
        image_archive.write(saved, f"docker.io/{image}", present, process.stdin)
    output = process.communicate()[0].decode(errors="replace").strip()
    if process.returncode:
        reason = " | ".join(output.splitlines()[-5:])
        cure = "free disk space if it is full, then run the command again"
        raise CliError(f"{image} could not be loaded into node {node}: {reason}", cure)


def _node_images(node: str) -> dict[str, str]:
    """Return reference -> digest of the images in a node."""
    listing = _ctr(node, "images", "ls").stdout.splitlines()[1:]
    return {fields[0]: fields[2] for fields in map(str.split, listing) if len(fields) > 2}


def _ctr(node: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run([host.docker(), "exec", node, *CTR, *arguments])


# ---- removing


def superseded(tags_newest_first: Iterable[str], current: str, kept: int = KEPT_TAGS) -> list[str]:
    """Return the tags to remove: all but the current one and the newest others, ``kept`` in all."""
    return [tag for tag in tags_newest_first if tag != current][kept - 1 :]


def _remove_superseded(name: str, image: str, nodes: list[str]) -> None:
    """Remove old tags from Docker, and from nodes where no container uses them."""
    repository, _, current = image.partition(":")
    listing = run([host.docker(), "images", "--format", "{{.Tag}}", repository]).stdout.split()
    old = superseded(listing, current, _image(name).kept_tags)
    if old:
        run([host.docker(), "rmi", *(f"{repository}:{tag}" for tag in old)], check=False)
    kept = {f"docker.io/{repository}:{tag}" for tag in listing if tag not in old}
    for node in nodes:
        _remove_from_node(node, f"docker.io/{repository}:", kept)


def _remove_from_node(node: str, prefix: str, kept: set[str]) -> None:
    images = _node_images(node)
    used = {
        line.split()[1]
        for line in _ctr(node, "containers", "ls").stdout.splitlines()[1:]
        if len(line.split()) > 1
    }
    digests_in_use = {images[each] for each in (kept | used) if each in images}
    removed = {digest for each, digest in images.items() if each.startswith(prefix)} - digests_in_use
    # Kubernetes' own records of an image (its id, its digest) hold the content, too.
    names = [each for each, digest in images.items() if digest in removed]
    if names:
        _ctr(node, "images", "rm", *names)
