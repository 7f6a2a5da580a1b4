"""Pushes the images and the chart to a registry, signs them, and writes the digests into an environment."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from . import chart, chart_package, environments, host, images, paths, release, sbom, toolchain
from .errors import CliError
from .git import WorkingTree, describe
from .pins import pinned
from .shell import run
from .stages import Reporter, Stages
from .versions import VERSIONS

# On kind, these stand in for public images: PostgreSQL's and NVIDIA's.
KIND_ONLY = ("postgres", "gpu-simulator")
# Where there are GPUs, the trainer with CUDA takes the place of the one without.
REPLACED = {"trainer": "trainer-cuda"}
CHARTS = paths.HOME / "charts"
LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/|$)")
REGISTRY = re.compile(r"[a-z0-9.\[\]:-]+(/[a-z0-9._-]+)*")
LOGIN = ("REGISTRY_USER", "REGISTRY_PASSWORD")


@dataclass(frozen=True)
class Pushed:
    """An image or a chart in a registry."""

    repository: str
    tag: str
    digest: str

    @property
    def pinned(self) -> str:
        """What names exactly this one."""
        return f"{self.repository}@{self.digest}"


def default_images() -> list[str]:
    """Return the images that a cluster with GPUs runs."""
    return [REPLACED.get(name, name) for name in release.IMAGE_KEYS if name not in KIND_ONLY]


def check(registry: str, names: Sequence[str], *, push: bool, environment: str) -> None:
    """Raise CliError for what cannot be published."""
    images.check_names(names)
    places = [_stands_for(name) for name in names]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice:
        raise CliError(f"two images would take the place of {twice}", "name one of them")
    if push and not REGISTRY.fullmatch(registry):
        raise CliError(
            f"--registry {registry!r} is no registry",
            "give host and path without https://, e.g. --registry ghcr.io/you/trainyard, or --no-push",
        )
    if environment:
        if not push:
            raise CliError("--environment needs digests, and those come from pushing", "leave --no-push out")
        environments.check_exists(environment, WorkingTree(paths.ROOT))


def publish(
    stages: Stages,
    registry: str,
    names: Sequence[str],
    *,
    push: bool,
    environment: str,
    sboms: Path | None,
    out: Console,
) -> None:
    """Build what is missing in the registry, push it, and print the digests."""
    version = chart_version()
    with stages("tools") as stage:
        helm = toolchain.helm(stage)
    with stages("docker") as stage:
        host.ensure_docker(stage)
    with stages("images") as stage:
        if not push:
            for name in names:
                out.print(images.ensure_built(stage, name), markup=False, soft_wrap=True)
        else:
            _log_in(registry, helm)
            pushed = {name: push_image(stage, name, registry) for name in names}
    with stages("chart") as stage:
        package = chart_package.package(helm, CHARTS, version)
        if not push:
            out.print(package, markup=False, soft_wrap=True)
            return
        pushed_chart = push_chart(stage, helm, package, registry)
    contents: dict[Pushed, Path] = {}
    if sboms:
        with stages("sbom") as stage:
            contents = list_contents(stage, pushed, sboms)
    with stages("signatures") as stage:
        why_not = sign(stage, [*pushed.values(), pushed_chart], contents)
    for each in (*pushed.values(), pushed_chart):
        out.print(f"{each.repository}:{each.tag}@{each.digest}", markup=False, soft_wrap=True)
    if why_not:
        out.print(f"not signed: {why_not}", markup=False, soft_wrap=True)
    if environment:
        file = paths.ROOT / environments.file(environment)
        file.write_text(with_images(file.read_text(), pushed))
        out.print(f"written to {file.relative_to(paths.ROOT)}", markup=False, soft_wrap=True)


def chart_version() -> str:
    """Return the chart's version: that of the release at its tag vX.Y.Z, else one for each commit."""
    released = f"v{VERSIONS.trainyard}"
    if describe(paths.ROOT, "--exact-match", f"--match={released}") == released:
        return VERSIONS.trainyard
    commit = describe(paths.ROOT, "--always", "--abbrev=12", "--exclude=*").replace("-", ".")
    # The letter: semver allows no number with leading zeros, which a commit of digits only may be.
    return f"{VERSIONS.trainyard}-g{commit}" if commit else VERSIONS.trainyard


# ---- pushing


def push_image(stage: Reporter, name: str, registry: str) -> Pushed:
    """Return the image in the registry, pushed if it is not there: its tag says what it is made of."""
    tag = images.expected(stage, name).rpartition(":")[2]
    repository = f"{registry}/{name}"
    reference = f"{repository}:{tag}"
    stage.update(f"looking for {reference}")
    digest = digest_in_registry(reference)
    if not digest:
        local = images.ensure_built(stage, name)
        stage.update(f"pushing {reference}")
        docker = host.docker()
        run([docker, "tag", local, reference])
        try:
            pushed = run([docker, "push", reference], log="push")
        finally:
            run([docker, "rmi", reference], check=False)
        digest = _digest(pushed.stdout, "docker push")
    return Pushed(repository, tag, digest)


def digest_in_registry(reference: str) -> str:
    """Return an image's digest, "" if the registry has no such tag (or an index, which tells no digest)."""
    insecure = ["--insecure"] if LOCAL.match(reference) else []
    command = [host.docker(), "manifest", "inspect", "--verbose", *insecure, reference]
    found = run(command, check=False)
    if found.returncode:
        return ""
    manifest: Any = json.loads(found.stdout)
    return str(manifest["Descriptor"]["digest"]) if isinstance(manifest, dict) else ""


def push_chart(stage: Reporter, helm: Path, package: Path, registry: str) -> Pushed:
    """Push the packaged chart as an OCI artifact."""
    stage.update(f"pushing {package.name}")
    plain = ["--plain-http"] if LOCAL.match(registry) else []
    pushed = run([helm, "push", package, f"oci://{registry}/charts", *plain])
    version = package.name.removeprefix("trainyard-").removesuffix(".tgz")
    digest = _digest(pushed.stdout + pushed.stderr, "helm push")
    return Pushed(f"{registry}/charts/trainyard", version, digest)


def _digest(output: str, program: str) -> str:
    found = re.findall(r"[Dd]igest: (sha256:[0-9a-f]{64})", output)
    if not found:
        raise CliError(f"{program} told no digest", "run the command again with --verbose")
    return str(found[-1])


def _log_in(registry: str, helm: Path) -> None:
    """Log in where the environment has a name and a password; helm reads what docker stores."""
    user, password = (os.environ.get(name, "") for name in LOGIN)
    if user and password:
        server = registry.partition("/")[0]
        run([host.docker(), "login", "--username", user, "--password-stdin", server], input=password)


def list_contents(stage: Reporter, pushed: Mapping[str, Pushed], directory: Path) -> dict[Pushed, Path]:
    """Write the SBOM of each image in the registry, whoever built it; return the files."""
    syft = toolchain.syft(stage)
    return {
        each: sbom.write(stage, syft, f"registry:{each.pinned}", name, directory)
        for name, each in pushed.items()
    }


# ---- signing


def sign(stage: Reporter, pushed: Iterable[Pushed], contents: Mapping[Pushed, Path]) -> str:
    """Sign with cosign, and attest the SBOMs in ``contents``.

    Return why not, where this machine has no signer or no identity to sign with.
    """
    cosign = shutil.which("cosign")
    if not cosign:
        return "cosign is not on the PATH"
    identity = signer(os.environ)
    if identity is None:
        return "there is no identity: neither COSIGN_PRIVATE_KEY nor an OIDC token of the CI, see docs/ci.md"
    for each in pushed:
        stage.update(f"signing {each.pinned}")
        options = ["--yes", *identity, *(["--allow-http-registry"] if LOCAL.match(each.repository) else [])]
        run([cosign, "sign", *options, each.pinned], log="sign")
        if each in contents:
            predicate = ["--type=cyclonedx", f"--predicate={contents[each]}"]
            run([cosign, "attest", *options, *predicate, each.pinned], log="sign")
    return ""


def signer(environment: Mapping[str, str]) -> list[str] | None:
    """Return cosign's options for who signs: a key, or the token of a CI job; None for nobody."""
    if environment.get("COSIGN_PRIVATE_KEY"):
        return ["--key=env://COSIGN_PRIVATE_KEY"]
    tokens = ("ACTIONS_ID_TOKEN_REQUEST_URL", "SIGSTORE_ID_TOKEN")
    return [] if any(environment.get(name) for name in tokens) else None


# ---- the environment


def with_images(text: str, pushed: Mapping[str, Pushed]) -> str:
    """Return an environment.yaml that takes the images; all else, comments too, stays as it is."""
    present = yaml.safe_load(text)["environment"]["images"]
    new = release.at_their_keys({_stands_for(name): asdict(image) for name, image in pushed.items()})
    return pinned(text, chart.merge(present, new))


def _stands_for(name: str) -> str:
    """Return the image of the release whose place an image takes."""
    return next((image for image, variant in REPLACED.items() if variant == name), name)
