"""The cure for each cause, in the words of the controllers that wrote them."""

from __future__ import annotations

import pytest
from trainyard_cli import cures

PLACES = {"file": "FILE", "values": "VALUES", "where": "WHERE"}

MESSAGES = {
    "values don't meet the specifications of the schema(s) in the following chart(s):\ntrainyard:\n"
    "- at '/serving/replicas': minimum: got 0, want 1": "correct VALUES or revert the commit",
    "values don't meet the specifications of the schema(s) in the following chart(s):\nairflow:\n"
    "- at '/scheduler': additional properties 'replica' not allowed": "docs/values.md lists all keys",
    "values don't meet the specifications of the schema(s) in the following chart(s):\nmlflow:\n"
    "- at '/image/tag': got number, want string": "between quotes",
    "values don't meet the specifications of the schema(s) in the following chart(s):\nairflow:\n"
    "- at '/apiServer/replicas': got string, want integer": "take the quotes or the unit",
    "values don't meet the specifications of the schema(s) in the following chart(s):\ntrainyard:\n"
    "- at '/training/volumes/x': missing property 'size'": "add the missing key in VALUES",
    "execution error at (trainyard/templates/validation.yaml:9:4): 3 bad value(s): - training: a": "VALUES",
    "failed to list refs: ssh: handshake failed: knownhosts: key mismatch": "host key differs",
    "failed to list refs: ssh: handshake failed: knownhosts: key is unknown": "write the git server's",
    "ssh: handshake failed: ssh: unable to authenticate, attempted methods [none]": "url, key or token",
    "failed to list refs: authentication required: Repository not found.": "url, key or token",
    "failed to list refs: dial tcp 10.96.41.7:2222: connect: connection refused": "the repository's address",
    "dial tcp: lookup git.example.com on 10.96.0.10:53: no such host": "the repository's address",
    "unable to resolve 'v9' to a commit SHA": "the revision in FILE",
    "resource :LimitRange is not permitted in project trainyard": "project.yaml",
    "application destination server 'https://a' and namespace 'b' do not match any of the allowed"
    " destinations in project 'trainyard'": "project.yaml",
    'Deployment.apps "trainyard-mlflow" is invalid: spec.template.spec.containers[0].resources.requests:'
    ' Invalid value: "9Gi": must be less than or equal to memory limit of 1536Mi': "the value in VALUES",
    'mlflow: ImagePullBackOff: Back-off pulling image "x/y:1"': "environment.images in FILE",
    'main: ErrImagePull: failed to pull and unpack image "registry.invalid/none:1": failed to resolve'
    ' reference "registry.invalid/none:1": failed to do request: Head "https://registry.invalid/v2/none/manifests/1":'
    " dial tcp: lookup registry.invalid on 172.18.0.1:53: no such host": "environment.images in FILE",
    "mlflow: CrashLoopBackOff: back-off 5m0s restarting failed container": "kubectl logs WHERE",
    'scheduler: CreateContainerConfigError: secret "trainyard-jwt" not found': "make the Secret",
    "0/5 nodes are available: pod has unbound immediate PersistentVolumeClaims.": "kubectl describe pvc",
    "0/5 nodes are available: 5 Insufficient memory.": "add nodes",
}


@pytest.mark.parametrize(("message", "cure"), MESSAGES.items())
def test_a_known_cause_has_a_cure(message: str, cure: str) -> None:
    assert cure in cures.cure(message, PLACES)


def test_an_unknown_cause_has_none() -> None:
    assert cures.cure("all is well", PLACES) == ""


def test_every_cure_is_tested() -> None:
    given = {cures.cure(message, PLACES) for message in MESSAGES}
    untested = {text.format_map(PLACES) for _, text in cures.CURES} - given
    assert untested == {
        "correct environment.revision in FILE: that revision has no charts/trainyard",
        "correct environment.valueFiles in FILE: the revision lacks one of them",
        "delete the object if that loses nothing, or set the value back in VALUES",
        "raise the quota, or lower requests and limits in VALUES",
    }, "write the message of a real controller above"
