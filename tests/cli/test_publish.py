"""Publishing: pure parts, and (nightly) a real registry, to which images and the chart are pushed."""

import crypt  # the only bcrypt here, which the registry wants
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name
from trainyard_cli import audit, paths, publish
from trainyard_cli.errors import CliError
from trainyard_cli.publish import Pushed
from trainyard_cli.versions import VERSIONS

DIGEST = "sha256:" + "ab" * 32
LOGIN = ("somebody", "secret")
ENVIRONMENT = """\
# Where this environment runs.
environment:
  revision: main # a branch
  valueFiles: [../../values/production.yaml]
  images:
    airflow:
      images:
        airflow:
          repository: registry.example.com/trainyard/airflow
          tag: 0.1.0 # by hand
    nvidia-device-plugin:
      image:
        repository: nvcr.io/nvidia/k8s-device-plugin
        tag: v0.18.0
"""


def test_only_the_images_of_an_environment_change() -> None:
    pushed = {
        "airflow": Pushed("ghcr.io/you/airflow", "012345678901", DIGEST),
        "trainer-cuda": Pushed("ghcr.io/you/trainer-cuda", "12345e678901", DIGEST),
    }
    written = publish.with_images(ENVIRONMENT, pushed)
    before, after = yaml.safe_load(ENVIRONMENT)["environment"], yaml.safe_load(written)["environment"]
    assert after["images"]["airflow"]["images"]["airflow"] == {
        "repository": "ghcr.io/you/airflow",
        "tag": "012345678901",
        "digest": DIGEST,
    }
    assert after["images"]["training"]["image"]["tag"] == "12345e678901"
    assert '"12345e678901"' in written  # Helm's YAML would take it for a number
    assert after["images"]["nvidia-device-plugin"] == before["images"]["nvidia-device-plugin"]
    assert {**after, "images": {}} == {**before, "images": {}}
    assert [line for line in ENVIRONMENT.splitlines() if "#" in line and "tag" not in line] == [
        line for line in written.splitlines() if "#" in line and "tag" not in line
    ]
    assert publish.with_images(written, pushed) == written


def test_what_a_gpu_cluster_runs_is_published() -> None:
    names = publish.default_images()
    assert {"airflow", "mlflow", "versitygw", "trainer-cuda"} <= set(names)
    assert not {"trainer", "postgres", "gpu-simulator"} & set(names)
    publish.check("ghcr.io/you/trainyard", names, push=True, environment="")


@pytest.mark.parametrize(
    ("registry", "names", "push", "environment", "told"),
    [
        ("", ["mlflow"], True, "", "--registry"),
        ("https://ghcr.io/you", ["mlflow"], True, "", "without https"),
        ("ghcr.io/You", ["mlflow"], True, "", "--registry"),
        ("ghcr.io/you", ["mlfow"], True, "", "there is no image mlfow"),
        ("ghcr.io/you", ["trainer", "trainer-cuda"], True, "", "take the place of trainer"),
        ("ghcr.io/you", ["mlflow"], False, "dev", "--environment needs digests"),
        ("ghcr.io/you", ["mlflow"], True, "nowhere", "there is no environment nowhere"),
    ],
)
def test_what_cannot_be_published_is_refused(
    registry: str, names: list[str], push: bool, environment: str, told: str
) -> None:
    with pytest.raises(CliError) as error:
        publish.check(registry, names, push=push, environment=environment)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({}, None),
        ({"COSIGN_PRIVATE_KEY": "key"}, ["--key=env://COSIGN_PRIVATE_KEY"]),
        ({"ACTIONS_ID_TOKEN_REQUEST_URL": "https://token"}, []),
        ({"SIGSTORE_ID_TOKEN": "token"}, []),
    ],
)
def test_who_signs(environment: dict[str, str], options: list[str] | None) -> None:
    assert publish.signer(environment) == options


# ---- a real registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The registry of Debian's package, with a password. Installed, it would start a service here."""
    directory = tmp_path_factory.mktemp("registry")
    download = ["apt-get", "download", "-qq", "docker-registry"]
    subprocess.run(download, cwd=directory, check=True, capture_output=True)
    (package,) = directory.glob("*.deb")
    subprocess.run(["dpkg", "--extract", package, directory], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hashed = crypt.crypt(LOGIN[1], crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))
    (directory / "passwords").write_text(f"{LOGIN[0]}:{hashed}\n")
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "auth": {"htpasswd": {"realm": "test", "path": str(directory / "passwords")}},
    }
    (directory / "config.yml").write_text(yaml.safe_dump(config))
    command = [directory / "usr/bin/docker-registry", "serve", directory / "config.yml"]
    with (directory / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/")
            yield f"localhost:{port}/you/trainyard"
        finally:
            process.terminate()


def wait_for(url: str) -> None:
    for _ in range(100):
        try:
            httpx.get(url).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"{url} does not answer")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree, with an environment that may be written."""
    copy = tmp_path_factory.mktemp("checkout") / "trainyard"
    ignored = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".cache")
    shutil.copytree(paths.ROOT, copy, symlinks=True, ignore=ignored)
    file = copy / "values/environments/dev/environment.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(ENVIRONMENT)
    return copy


def run(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        **dict(zip(publish.LOGIN, LOGIN, strict=True)),
        "DOCKER_CONFIG": str(checkout.parent / "docker"),
        # The copy lies in no repository of its own.
        "GIT_CEILING_DIRECTORIES": str(checkout.parent),
    }
    command = [checkout / "scripts" / words[0], *words[1:]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.nightly
def test_what_is_published_is_in_the_registry(registry: str, checkout: Path, tmp_path: Path) -> None:
    words = (
        "publish",
        f"--registry={registry}",
        "--image=versitygw",
        "--environment=dev",
        f"--sbom={tmp_path}",
    )
    first = run(checkout, *words)
    references = [line for line in first.stdout.splitlines() if "@sha256:" in line]
    assert [line.partition("@")[0].rpartition(":")[0] for line in references] == [
        f"{registry}/versitygw",
        f"{registry}/charts/trainyard",
    ]
    for reference in references:
        assert digest_in_registry(reference) == reference.partition("@")[2]
    assert "not signed: " in first.stdout or shutil.which("cosign")

    # The environment takes exactly what was pushed.
    file = checkout / "values/environments/dev/environment.yaml"
    image = yaml.safe_load(file.read_text())["environment"]["images"]["versitygw"]["image"]
    assert f"{image['repository']}:{image['tag']}@{image['digest']}" == references[0]

    # The SBOM is of the pushed image.
    document = json.loads((tmp_path / "versitygw.cdx.json").read_text())
    assert document["metadata"]["component"]["version"] == image["digest"]

    # What is there already is neither built nor pushed again, and the chart is the same bytes.
    second = run(checkout, *words)
    assert "building" not in second.stderr
    assert "pushing " + image["repository"] not in second.stderr
    assert [line for line in second.stdout.splitlines() if "@sha256:" in line] == references


def digest_in_registry(reference: str) -> str:
    name, _, digest = reference.partition("@")
    host, _, path = name.rpartition(":")[0].partition("/")
    types = ["vnd.oci.image.manifest.v1", "vnd.docker.distribution.manifest.v2"]
    accept = {"Accept": ", ".join(f"application/{each}+json" for each in types)}
    url = f"http://{host}/v2/{path}/manifests/{digest}"
    answer = httpx.get(url, headers=accept, auth=LOGIN).raise_for_status()
    return answer.headers["Docker-Content-Digest"]


@pytest.mark.nightly
def test_the_sbom_has_every_locked_package(checkout: Path, tmp_path: Path) -> None:
    run(checkout, "sbom", "mlflow", "versitygw", f"--output={tmp_path}")
    for file in tmp_path.glob("*.json"):
        document = json.loads(file.read_text())
        version = SchemaVersion.from_version(document["specVersion"])
        assert JsonStrictValidator(version).validate_str(file.read_text()) is None

    mlflow = audit.components([tmp_path / "mlflow.cdx.json"])
    lock = (paths.ROOT / "images/mlflow/requirements.txt").read_text()
    locked = {
        (canonicalize_name(name), version) for name, version in re.findall(r"^(\S+)==(\S+)", lock, re.M)
    }
    assert locked
    assert locked == {(canonicalize_name(each.name), each.version) for each in mlflow if each.kind == "pypi"}
    assert f"python{VERSIONS.python}-minimal" in {each.name for each in mlflow if each.kind == "deb"}

    versitygw = audit.components([tmp_path / "versitygw.cdx.json"])
    go = {each.name: each for each in versitygw if each.kind == "golang"}
    assert "github.com/versity/versitygw" in go
    assert "Apache-2.0" in go["github.com/aws/aws-sdk-go-v2"].licences
