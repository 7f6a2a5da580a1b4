"""kind, helm, kubectl, actionlint, syft: released binaries where they can be had, else built from Go modules.

Each directory of images/kind-node/go is one, whose `tool` directives name the programs and whose go.sum locks
them. The module of a program that has an image of its own is images/<module>/go.
"""

import fcntl
import functools
import hashlib
import os
import re
import shutil
import tarfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import host, paths
from .errors import CliError
from .shell import run
from .stages import Reporter

GO_MODULES = paths.ROOT / "images" / "kind-node" / "go"
GO_CACHE = paths.HOME / "go"
GO_LOCK = paths.HOME / "go.lock"
PLATFORM = "linux-amd64"
# What nobody waits for yet leaves the processors to the builds that somebody waits for.
PATIENT = ("argocd",)
NICE = ("nice", "-n", "19")
PROBE_SECONDS = 5.0
# The first Go that fetches newer versions of itself, as a go.mod asks for.
SELF_UPDATING_GO = (1, 21)
# What kind nodes never use; modules ignore the tags that they do not know.
BUILD_TAGS = "providerless,no_btrfs,no_zfs,no_devmapper,no_aufs"
VERSION_VARIABLES = {
    "actionlint": "github.com/rhysd/actionlint.version",
    "argocd": "github.com/argoproj/argo-cd/v3/common.version",
    "containerd": "github.com/containerd/containerd/v2/version.Version",
    "helm": "helm.sh/helm/v3/internal/version.version",
    "syft": "main.version",
}
# Two jobs may want the same module, or Go itself: one makes it, the other waits for it.
_building: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
_finding_go = threading.Lock()


@dataclass(frozen=True)
class Tools:
    """Paths of the programs."""

    kind: Path
    helm: Path
    kubectl: Path


@dataclass(frozen=True)
class Release:
    """Where a released program and its SHA-256 can be had, and its path inside an archive."""

    url: str
    checksum_url: str
    member: str = ""


def ensure(stage: Reporter) -> Tools:
    """Return the tools, downloaded or built where they are missing."""
    return Tools(
        helm=helm(stage),
        kind=_tool(stage, "kind", "kind"),
        kubectl=kubectl(stage),
    )


def helm(stage: Reporter) -> Path:
    """Return helm alone: to render charts takes no Kubernetes, which is built with kubectl."""
    return _tool(stage, "helm", "helm")


def kubectl(stage: Reporter) -> Path:
    """Return kubectl alone."""
    return _tool(stage, "kubernetes", "kubectl")


def actionlint(stage: Reporter) -> Path:
    """Return what checks GitHub's workflows."""
    return _tool(stage, "actionlint", "actionlint")


def kube_score(stage: Reporter) -> Path:
    """Return what scores rendered objects."""
    return build(stage, "kube-score") / "kube-score"


def syft(stage: Reporter) -> Path:
    """Return what lists the contents of an image."""
    return _tool(stage, "syft", "syft")


def source(module: str) -> Path:
    """Return the directory of a Go module."""
    own = paths.ROOT / "images" / module / "go"
    return own if own.is_dir() else GO_MODULES / module


def version(module: str) -> str:
    """Return the version, e.g. v1.35.4, of the first program that the Go module builds."""
    text = (source(module) / "go.mod").read_text()
    block = re.search(r"^tool (?:\(\s*)?(\S+)", text, re.M)
    if block:
        requirements = re.findall(r"^(?:require)?\s*(\S+) (v\S+)", text, re.M)
        for path, found in requirements:
            if block[1] == path or block[1].startswith(f"{path}/"):
                return found
    raise CliError(f"{source(module)}/go.mod names no version of its tool", "restore it from git")


def content_hash(module: str) -> str:
    """Return 12 hex digits over everything that decides what building ``module`` gives."""
    digest = hashlib.sha256(" ".join(_build_options(module)).encode())
    for file in sorted(source(module).iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def build(stage: Reporter, module: str) -> Path:
    """Build the programs of the Go module unless they are there; return their directory."""
    directory = paths.HOME / "bin" / f"{module}-{content_hash(module)}"
    with _building[module]:
        return make_once(directory, functools.partial(_build, stage, module))


def make_once(directory: Path, fill: Callable[[Path], None]) -> Path:
    """Return the directory; where it is missing, ``fill`` fills it first. It is never there by half."""
    if not directory.is_dir():
        new = directory.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        fill(new)
        new.rename(directory)
    return directory


def _build(stage: Reporter, module: str, new: Path) -> None:
    priority = NICE if module in PATIENT else ()
    with _sources_kept():
        with _finding_go:
            go, environment = _go(stage)
        stage.update(f"building {module} from Go modules")
        command = [go, "build", *_build_options(module), "-o", f"{new}/", "tool"]
        run([*priority, *command], cwd=source(module), env=environment, log=f"go-{module}")


def run_tool(stage: Reporter, module: str, program: str, *arguments: str, sources: str = "") -> None:
    """Run one of the module's programs, which reads Go sources: its own module's, or another one's."""
    built = build(stage, module) / program
    with _sources_kept():
        with _finding_go:
            go, environment = _go(stage)
        stage.update(f"running {program}")
        path = os.pathsep.join([str(Path(go).parent), os.environ["PATH"]])
        command: list[str | Path] = [*NICE, built, *arguments]
        run(command, cwd=source(sources or module), env={**environment, "PATH": path}, log=f"go-{module}")


def sources(stage: Reporter, module: str, version: str) -> Path:
    """Return the directory of a module's files as the Go proxy has them; they may be forgotten later."""
    with _sources_kept():
        with _finding_go:
            go, environment = _go(stage)
        GO_CACHE.mkdir(parents=True, exist_ok=True)
        # Outside any module, so that no go.mod has a say.
        run([go, "mod", "download", f"{module}@{version}"], cwd=GO_CACHE, env=environment, log="go-sources")
    return GO_CACHE / "mod" / f"{module}@{version}"


@contextmanager
def _sources_kept() -> Iterator[None]:
    """Keep other commands from deleting what this one builds from."""
    paths.HOME.mkdir(parents=True, exist_ok=True)
    with GO_LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def forget_sources() -> None:
    """Delete the sources and objects of what has been built: gigabytes, of no use until a version changes.

    Another command that is building keeps them.
    """
    with GO_LOCK.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        shutil.rmtree(GO_CACHE, ignore_errors=True)


def releases() -> dict[str, Release]:
    """Return where released tools can be had, for the versions in the go.mod files."""
    kind, helm, kubectl = version("kind"), version("helm"), version("kubernetes")
    kind_url = f"https://github.com/kubernetes-sigs/kind/releases/download/{kind}/kind-{PLATFORM}"
    helm_url = f"https://get.helm.sh/helm-{helm}-{PLATFORM}.tar.gz"
    kubectl_url = f"https://dl.k8s.io/release/{kubectl}/bin/{PLATFORM.replace('-', '/')}/kubectl"
    return {
        "actionlint": _on_github("rhysd", "actionlint"),
        "syft": _on_github("anchore", "syft"),
        "kind": Release(kind_url, f"{kind_url}.sha256sum"),
        "helm": Release(helm_url, f"{helm_url}.sha256sum", member=f"{PLATFORM}/helm"),
        "kubectl": Release(kubectl_url, f"{kubectl_url}.sha256"),
    }


def _on_github(owner: str, name: str) -> Release:
    """Return the archive that goreleaser makes, with the checksums of all platforms beside it."""
    found = version(name)
    number = found.removeprefix("v")
    url = f"https://github.com/{owner}/{name}/releases/download/{found}/{name}_{number}"
    return Release(f"{url}_{PLATFORM.replace('-', '_')}.tar.gz", f"{url}_checksums.txt", member=name)


def _tool(stage: Reporter, module: str, name: str) -> Path:
    built = paths.HOME / "bin" / f"{module}-{content_hash(module)}" / name
    if built.exists():
        return built
    released = paths.HOME / "bin" / f"{name}-{version(module)}" / name
    if released.exists() or _download(stage, releases()[name], released):
        return released
    return build(stage, module) / name


def _download(stage: Reporter, release: Release, target: Path) -> bool:
    """Fetch a released program and check its SHA-256; return False where it cannot be had."""
    import httpx  # slow to import, and downloads are rare

    timeout = httpx.Timeout(PROBE_SECONDS, read=60)
    stage.update(f"looking for a release of {target.name}")
    try:
        with httpx.Client(timeout=timeout, follow_redirects=True) as client:
            checksums = client.get(release.checksum_url).raise_for_status().text
            expected = checksum(checksums, release.url.rpartition("/")[2])
            content = client.get(release.url).raise_for_status().content
    except (httpx.HTTPError, OSError, LookupError) as error:
        stage.update(f"no release of {target.name} can be had ({type(error).__name__})")
        return False
    if hashlib.sha256(content).hexdigest() != expected:
        raise CliError(f"{release.url} does not have its SHA-256 {expected}", "run the command again")
    new = target.with_suffix(".new")
    new.parent.mkdir(parents=True, exist_ok=True)
    new.write_bytes(content)
    if release.member:
        with tarfile.open(new) as archive:
            member = archive.extractfile(release.member)
            program = member.read() if member else b""
        new.write_bytes(program)
    new.chmod(0o755)
    new.rename(target)
    return True


def checksum(text: str, name: str) -> str:
    """Return the SHA-256 of ``name`` from a file of lines "HASH  NAME", or with a hash alone."""
    for line in text.splitlines():
        found, *names = line.split()
        if not names or names[0].removeprefix("*") == name:
            return found
    raise LookupError(f"no checksum of {name}")


def _build_options(module: str) -> list[str]:
    flags = ["-s", "-w", *(f"-X {name}={value}" for name, value in _version_variables(module).items())]
    return ["-trimpath", f"-tags={BUILD_TAGS}", f"-ldflags={' '.join(flags)}"]


def _version_variables(module: str) -> Mapping[str, str]:
    """Return the variables through which programs know their version, for those that need to."""
    if module not in (*VERSION_VARIABLES, "kubernetes"):
        return {}
    found = version(module)
    if module in VERSION_VARIABLES:
        return {VERSION_VARIABLES[module]: found.removeprefix("v") if module == "argocd" else found}
    major, minor, _ = found.removeprefix("v").split(".", 2)
    values = {"gitVersion": found, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return {f"{package}.{name}": value for package in packages for name, value in values.items()}


def _go(stage: Reporter) -> tuple[str, dict[str, str]]:
    """Return a Go that can build every module, and its environment."""
    environment = {
        "GOMODCACHE": str(GO_CACHE / "mod"),
        "GOCACHE": str(GO_CACHE / "build"),
        "GOFLAGS": "-mod=readonly -modcacherw -buildvcs=false",
        "GOTOOLCHAIN": "auto",
        "CGO_ENABLED": "0",
        "HOME": os.environ.get("HOME", str(paths.HOME)),
    }
    go = shutil.which("go")
    if not go:
        stage.update("installing Go from Debian")
        host.install_packages("golang-go", "ca-certificates")
        go = shutil.which("go") or "/usr/bin/go"
    if _go_version(go) < SELF_UPDATING_GO:
        stage.update("fetching a newer Go through the Go proxy")
        go = str(_newer_go(go, environment))
    return go, environment


def _go_version(go: str) -> tuple[int, int]:
    found = re.search(r"go(\d+)\.(\d+)", run([go, "version"], env={"GOTOOLCHAIN": "local"}).stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _newer_go(go: str, environment: Mapping[str, str]) -> Path:
    """Have a Go too old to update itself fetch the newest one that a go.mod asks for.

    Go's releases are versions of the module golang.org/toolchain. A module keeps neither executable bits nor
    nested go.mod files, which lie there as _go.mod; a newer Go sets this right on first use, here we do.
    """
    needed = max(
        (re.search(r"^go (\S+)", file.read_text(), re.M)[1] for file in GO_MODULES.glob("*/go.mod")),  # type: ignore[index]
        key=lambda text: [int(part) for part in text.split(".")],
    )
    release = needed if needed.count(".") == 2 else f"{needed}.0"
    module = f"golang.org/toolchain@v0.0.1-go{release}.{PLATFORM}"
    # Outside any module, so that no go.mod or vendor directory has a say.
    GO_CACHE.mkdir(parents=True, exist_ok=True)
    old = {**environment, "GOFLAGS": "-modcacherw"}
    run([go, "mod", "download", module], cwd=GO_CACHE, env=old, log="go-toolchain")
    directory = GO_CACHE / "mod" / module
    for file in directory.rglob("_go.mod"):
        file.rename(file.with_name("go.mod"))
    for folder in ("bin", "pkg/tool"):
        for file in (directory / folder).rglob("*"):
            if file.is_file():
                file.chmod(0o755)
    return directory / "bin" / "go"
