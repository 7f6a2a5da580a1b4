"""A git server in the cluster with one repository of DAGs, and its keys."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from kubernetes import client
from local_images import built_and_loaded
from pods import output_of, scratch, wait_until

NAME, PORT, REPOSITORY = "git-server", 2222, "/srv/git/team.git"
# A copy of the repository in the server's pod, and a commit of the files that follow as NAME=BASE64.
COMMIT = """
set -eu
export GIT_AUTHOR_NAME=e2e GIT_AUTHOR_EMAIL=e2e@example.com
export GIT_COMMITTER_NAME=e2e GIT_COMMITTER_EMAIL=e2e@example.com
[ -d /tmp/clone ] || git clone --quiet "$0" /tmp/clone
cd /tmp/clone
mkdir -p dags
for file; do echo "${file#*=}" | base64 -d > "dags/${file%%=*}"; done
git add --all
git commit --quiet --allow-empty --message=e2e
git push --quiet origin HEAD:main
git rev-parse HEAD
"""


@dataclass(frozen=True)
class Key:
    """A pair of SSH keys."""

    private: str
    public: str


def new_key() -> Key:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return Key(
        private.decode(), key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    )


@dataclass(frozen=True)
class GitServer:
    """A server that runs. `deploy` may read the repository, and `known_hosts` pins the server."""

    core: client.CoreV1Api
    namespace: str
    deploy: Key
    host: Key

    @property
    def url(self) -> str:
        return f"ssh://git@{self._address}:{PORT}{REPOSITORY}"

    @property
    def known_hosts(self) -> str:
        return f"[{self._address}]:{PORT} {self.host.public}\n"

    @property
    def _address(self) -> str:
        return f"{NAME}.{self.namespace}.svc.cluster.local"

    def push(self, **files: str) -> str:
        """Commit DAG files, by their names without `.py`; return the commit."""
        encoded = [f"{name}.py={base64.b64encode(text.encode()).decode()}" for name, text in files.items()]
        command = ("sh", "-c", COMMIT, REPOSITORY, *encoded)
        return output_of(self.core, NAME, self.namespace, *command).split()[-1]

    def reachable(self, yes: bool) -> None:
        """Let the Service have the pod, or nothing at all."""
        selector = {"app": NAME if yes else "nothing"}
        self.core.patch_namespaced_service(NAME, self.namespace, {"spec": {"selector": selector}})


@contextmanager
def git_server(core: client.CoreV1Api, namespace: str) -> Iterator[GitServer]:
    """A server in a namespace of its own, for as long as the block."""
    image = built_and_loaded(NAME)
    host, deploy = new_key(), new_key()
    allowed = f"restrict,command=\"git-upload-pack '{REPOSITORY}'\" {deploy.public}"
    with scratch(core, {"metadata": {"name": namespace}}):
        secret = {"host_ed25519": host.private, "authorized_keys": allowed}
        core.create_namespaced_secret(namespace, {"metadata": {"name": NAME}, "stringData": secret})
        service = {"selector": {"app": NAME}, "ports": [{"port": PORT, "targetPort": PORT}]}
        core.create_namespaced_service(namespace, {"metadata": {"name": NAME}, "spec": service})
        core.create_namespaced_pod(namespace, _pod(image))

        def is_ready() -> bool:
            statuses = core.read_namespaced_pod(NAME, namespace).status.container_statuses or []
            return all(status.ready for status in statuses) and bool(statuses)

        wait_until("the git server", is_ready)
        yield GitServer(core, namespace, deploy, host)


def _pod(image: str) -> dict[str, Any]:
    mounts = [
        {"name": "ssh", "mountPath": "/etc/git-server/ssh", "readOnly": True},
        {"name": "repositories", "mountPath": "/srv/git"},
    ]
    container = {
        "name": NAME,
        "image": image,
        "env": [{"name": "REPOSITORY", "value": REPOSITORY}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "volumeMounts": mounts,
    }
    return {
        "metadata": {"name": NAME, "labels": {"app": NAME}},
        "spec": {
            "nodeSelector": {"trainyard.dev/role": "cpu"},
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
            "containers": [container],
            "volumes": [
                {"name": "ssh", "secret": {"secretName": NAME, "defaultMode": 0o440}},
                {"name": "repositories", "emptyDir": {}},
            ],
        },
    }
