"""Reaches any cluster of a kubeconfig: kubectl knows every way to log in."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from .errors import CliError
from .kube import Kube

START_SECONDS = 30


class ProxiedKube(Kube):
    """A cluster behind `kubectl proxy`, which listens on a socket that only this user can open."""

    def __init__(self, socket: Path, server: str, cure: str) -> None:
        self.server = server
        self.cure = cure
        transport = httpx.HTTPTransport(uds=str(socket))
        self._http = httpx.Client(
            base_url="http://localhost", transport=transport, timeout=30, trust_env=False
        )


def options(kubeconfig: Path | None, context: str | None) -> list[str]:
    """Return the options by which kubectl takes this kubeconfig and context."""
    file = [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
    return [*file, *([f"--context={context}"] if context else [])]


@contextmanager
def reach(kubectl: Path, kubeconfig: Path | None, context: str | None) -> Iterator[Kube]:
    """Give the cluster of a kubeconfig and context; without them those that kubectl would take."""
    with_options = [str(kubectl), *options(kubeconfig, context)]
    with tempfile.TemporaryDirectory(prefix="trainyard-") as directory:
        socket = Path(directory) / "api.sock"
        command = [*with_options, "proxy", f"--unix-socket={socket}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as proxy:
            try:
                contexts = ["kubectl", *options(kubeconfig, None), "config", "get-contexts"]
                _wait_for(socket, proxy, f"{' '.join(contexts)} lists what there is")
                cure = f"{' '.join(['kubectl', *with_options[1:], 'version'])} says more"
                yield ProxiedKube(socket, context or str(kubeconfig), cure)
            finally:
                proxy.terminate()


def _wait_for(socket: Path, proxy: subprocess.Popen[str], cure: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not socket.exists():
        if proxy.poll() is not None or time.monotonic() > deadline:
            proxy.terminate()
            _, said = proxy.communicate()
            raise CliError(f"kubectl proxy does not start: {said.strip()}", cure)
        time.sleep(0.05)
