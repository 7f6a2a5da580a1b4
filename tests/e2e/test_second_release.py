"""A second release beside the first: the API server takes all of it, and none of it is the first one's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from conftest import ROOT
from kubernetes import client

RELEASE = "two"
# As values/second-release.yaml says, and the release's own.
SPACES = {"training": "ml-training-two", "serving": "ml-serving-two", "release": "e2e-two"}
LONG = "a-release-name-may-have-fifty-three-characters-as-this"[:53]


@pytest.fixture(scope="module")
def namespaces(core: client.CoreV1Api) -> Iterator[None]:
    """Even a dry run needs the namespaces; they are as the chart would make them."""
    labels = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/warn": "restricted",
    }
    for name in SPACES.values():
        core.create_namespace({"metadata": {"name": name, "labels": labels}})
    yield
    for name in SPACES.values():
        core.delete_namespace(name)


@pytest.mark.parametrize("release", [RELEASE, LONG])
def test_the_api_server_takes_a_second_release(namespaces: None, release: str) -> None:
    command = ["helm", "template", release, "charts/trainyard", "--namespace", SPACES["release"]]
    command += ["--values", "values/second-release.yaml"]
    command += [f"--set={key}.createNamespace=false" for key in ("training", "serving")]
    rendered = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    applied = subprocess.run(
        ["kubectl", "apply", "--dry-run=server", "-f", "-"], input=rendered, capture_output=True, text=True
    )
    assert applied.returncode == 0 and "Warning" not in applied.stderr, applied.stderr
    lines = applied.stdout.splitlines()
    assert len(lines) > 50
    # What is there already would be configured or unchanged.
    assert not [line for line in lines if not line.endswith("created (server dry run)")]
