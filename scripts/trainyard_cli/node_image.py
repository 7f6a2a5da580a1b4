"""The image of the cluster's nodes, and the bases of all images: pulled where they can be, else built."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from . import host, paths, toolchain
from .errors import CliError
from .shell import failure, run
from .stages import Reporter
from .versions import VERSIONS

SOURCE = paths.ROOT / "images" / "kind-node"
PUBLIC_NODE = VERSIONS.node_image
BASE_FILES = SOURCE / "base"
DEBOOTSTRAP_ATTEMPTS = 3
PULL_SECONDS = 180
PROBE_SECONDS = 20
# What the node image is made of, by directory of images/kind-node/go. Kubernetes comes last: it takes
# longest, and another job builds it at the same time, for kubectl.
MODULES = ("containerd", "etcd", "coredns", "local-path-provisioner", "pause", "kubernetes")
STATIC_PODS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")
# Named in images/kind-node/manifests/default-storage.yaml.
LOCAL_PATH_PROVISIONER = "docker.io/trainyard/local-path-provisioner:node"
PRELOADER = "trainyard-node-preload"
# An unpacked layer is not needed a second time, as it came.
IMPORT = "ctr -n k8s.io images import --local --discard-unpacked-layers -".split()  # noqa: SIM905
_making_base = threading.Lock()


@dataclass(frozen=True)
class Base:
    """A Debian that Dockerfiles start from: ``public`` is its slim image."""

    public: str

    @property
    def suite(self) -> str:
        """Return Debian's name, e.g. trixie."""
        return self.public.partition(":")[2].partition("-")[0]

    @property
    def built(self) -> str:
        """Return what the one made of packages is called, with a hash of the files that it gets from us."""
        digest = hashlib.sha256()
        for file in sorted(each for each in BASE_FILES.rglob("*") if each.is_file()):
            digest.update(f"{file.relative_to(BASE_FILES)}\0".encode() + file.read_bytes() + b"\0")
        return f"trainyard/base:{self.suite}-{digest.hexdigest()[:12]}"


BASE = Base(VERSIONS.base_image)
NODE_BASE = Base(VERSIONS.node_base_image)


def base_image(stage: Reporter, base: Base = BASE) -> str:
    """Return the image that Dockerfiles start from: Debian's slim one, or one made of its packages."""
    with _making_base:  # every image wants it
        for image in (base.built, base.public):
            if present(image):
                return image
        if pull(stage, base.public):
            return base.public
        _bootstrap_base(stage, base)
        return base.built


def ensure(stage: Reporter) -> str:
    """Return the node image for the Kubernetes version in images/kind-node/go/kubernetes/go.mod."""
    built = f"trainyard/kind-node:{content_hash()}"
    for image in (built, PUBLIC_NODE):
        if present(image):
            return image
    if pull(stage, PUBLIC_NODE):
        return PUBLIC_NODE
    return _build(stage, built)


def content_hash() -> str:
    """Return 12 hex digits over everything that decides what the built node image holds."""
    digest = hashlib.sha256()
    for module in sorted(MODULES):
        digest.update(f"{module}={toolchain.content_hash(module)}\n".encode())
    for file in sorted(SOURCE.rglob("*")):
        if file.is_file() and not file.is_relative_to(toolchain.GO_MODULES):
            digest.update(f"{file.relative_to(SOURCE)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def component_images(listing: str) -> dict[str, str]:
    """Return {component: image} from the output of ``kubeadm config images list``."""
    images = [line.strip() for line in listing.splitlines() if line.strip()]
    return {image.rpartition(":")[0].rpartition("/")[2]: image for image in images}


def present(image: str) -> bool:
    """Return whether Docker has the image, which may be a tag or an id."""
    return run([host.docker(), "image", "inspect", image], check=False).returncode == 0


def pull(stage: Reporter, image: str) -> bool:
    """Pull a public image; False where no registry has it or answers in time."""
    stage.update(f"looking for {image} in its public registry")
    probe = [host.docker(), "manifest", "inspect", image]
    try:
        found = run(probe, check=False, timeout=PROBE_SECONDS)
        if found.returncode == 0:
            stage.update(f"pulling {image}")
            found = run([host.docker(), "pull", image], check=False, timeout=PULL_SECONDS, log="docker-pull")
    except CliError:
        return False
    return found.returncode == 0


def _bootstrap_base(stage: Reporter, base: Base) -> None:
    if os.geteuid() != 0:
        raise CliError(
            f"{base.public} cannot be pulled, and only root can make a Debian from packages",
            f"run the command as root, or docker pull {base.public} where a registry answers",
        )
    if not shutil.which("debootstrap"):
        host.install_packages("debootstrap")
    paths.HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.HOME, prefix="base-") as temporary:
        tree = Path(temporary) / "debian"
        sources = _debian_sources(base.suite)
        _debootstrap(stage, tree, Path(temporary) / "packages", base.suite, sources[base.suite])
        lines = (f"deb {uri} {suite} main\n" for suite, uri in sources.items())
        (tree / "etc/apt/sources.list").write_text("".join(lines))
        shutil.copytree(BASE_FILES, tree, dirs_exist_ok=True)
        # The base's own dpkg rules keep these out of later installs; here they are there already.
        for folder in ("info", "locale", "man"):
            shutil.rmtree(tree / "usr/share" / folder, ignore_errors=True)
        for file in (tree / "usr/share/doc").rglob("*"):
            if file.is_file() and not file.is_symlink() and file.name != "copyright":
                file.unlink()
        for folder in ("var/cache/apt", "var/lib/apt/lists", "var/log"):
            shutil.rmtree(tree / folder, ignore_errors=True)
            (tree / folder).mkdir()
        stage.update(f"importing {base.built}")
        archive = Path(temporary) / "debian.tar"
        run(["tar", "--numeric-owner", "--sort=name", "-C", tree, "-cf", archive, "."])
        run([host.docker(), "import", "--change", 'CMD ["bash"]', archive, base.built])


def _debootstrap(stage: Reporter, tree: Path, packages: Path, suite: str, mirror: str) -> None:
    """Unpack a minimal Debian into `tree`; debootstrap gives up at the first package that does not arrive."""
    packages.mkdir()
    command: list[str | Path] = ["debootstrap", "--variant=minbase", f"--cache-dir={packages}"]
    command += [suite, tree, mirror]
    for attempts_left in reversed(range(DEBOOTSTRAP_ATTEMPTS)):
        stage.update("making a Debian from packages, as no registry has one")
        try:
            run(command, log="debootstrap")
            return
        except CliError:
            if not attempts_left:
                raise
            shutil.rmtree(tree, ignore_errors=True)


def _debian_sources(suite: str) -> dict[str, str]:
    """Return {suite: address of its packages}, security updates included.

    The addresses are those by which this machine gets its own Debian, whichever that is.
    """
    main, security = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
    sources = {suite: main, f"{suite}-updates": main, f"{suite}-security": security}
    wanted = "$(REPO_URI) $(CODENAME) $(ORIGIN)"
    listed = run(["apt-get", "indextargets", "--format", wanted], check=False).stdout
    for uri, own, origin in (line.split(" ", 2) for line in listed.splitlines()):
        named = own.replace(own.partition("-")[0], suite, 1)
        if named in sources and origin == "Debian":
            sources[named] = uri
    return sources


def _build(stage: Reporter, image: str) -> str:
    binaries = [toolchain.build(stage, module) for module in MODULES]
    base = base_image(stage, NODE_BASE)
    context = _context(binaries)
    version = toolchain.version("kubernetes")
    listing = run([context / "bin/kubeadm", "config", "images", "list", f"--kubernetes-version={version}"])
    names = component_images(listing.stdout)
    arguments = {
        "BASE_IMAGE": base,
        "KUBERNETES_VERSION": version,
        "PAUSE_IMAGE": names["pause"],
    }
    for name in STATIC_PODS:
        stage.update(f"building the image of {name}")
        _docker_build(context, "static-pod", names[name], {**arguments, "PROGRAM": name})
    for name in ("kube-proxy", "coredns", "pause"):
        stage.update(f"building the image of {name}")
        _docker_build(context, name, names[name], arguments)
    stage.update("building the image of local-path-provisioner")
    _docker_build(context, "local-path-provisioner", LOCAL_PATH_PROVISIONER, arguments)
    stage.update("building the node image")
    empty = f"{image}-empty"
    _docker_build(context, "node", empty, arguments)
    stage.update("loading the control plane's images into the node image")
    _preload(empty, image, [*names.values(), LOCAL_PATH_PROVISIONER])
    return image


def _context(directories: list[Path]) -> Path:
    """Lay out the build context, the programs hard-linked into its bin/."""
    context = paths.HOME / "build" / "kind-node"
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(SOURCE, context, ignore=shutil.ignore_patterns("go"))
    (context / "bin").mkdir()
    for directory in directories:
        for program in directory.iterdir():
            (context / "bin" / program.name).hardlink_to(program)
    # Its module's path ends in /server/v3, so Go calls it server.
    (context / "bin/server").rename(context / "bin/etcd")
    return context


def _docker_build(context: Path, target: str, image: str, arguments: dict[str, str]) -> None:
    options = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    command = [host.docker(), "build", "--network=host", f"--target={target}", f"--tag={image}", *options]
    run([*command, context], env={"DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}, log="kind-node")


def _preload(empty: str, image: str, names: list[str]) -> None:
    """Commit ``image``: ``empty`` with the images ``names`` in its containerd."""
    docker = host.docker()
    run([docker, "rm", "-f", "-v", PRELOADER], check=False)
    try:
        run([docker, "run", "-d", "--privileged", "--name", PRELOADER, "--entrypoint", "containerd", empty])
        _wait_for_containerd(docker)
        save = subprocess.Popen([docker, "save", *names], stdout=subprocess.PIPE)
        load = subprocess.run(
            [docker, "exec", "-i", PRELOADER, *IMPORT],
            stdin=save.stdout,
            capture_output=True,
            text=True,
        )
        if save.wait() != 0 or load.returncode != 0:
            raise failure(load)
        run([docker, "stop", PRELOADER])
        inspect = [docker, "image", "inspect", "--format", "{{json .Config.Entrypoint}}", empty]
        entrypoint = f"ENTRYPOINT {run(inspect).stdout}"
        run([docker, "commit", "--change", entrypoint, PRELOADER, image], log="kind-node")
    finally:
        run([docker, "rm", "-f", "-v", PRELOADER], check=False)


def _wait_for_containerd(docker: str) -> None:
    for _ in range(50):
        if run([docker, "exec", PRELOADER, "ctr", "version"], check=False).returncode == 0:
            return
        time.sleep(0.2)
    raise failure(run([docker, "logs", PRELOADER], check=False))
