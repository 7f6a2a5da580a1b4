"""A pod that takes messages by HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes import client
from pods import scratch, scratch_pod, wait_until

NAME = "receiver"
PORT = 8080
# Prints each message as one line.
PROGRAM = f"""
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_): ...

HTTPServer(("", {PORT}), Handler).serve_forever()
"""


@contextmanager
def receiver_pod(core: client.CoreV1Api, training: dict[str, Any], namespace: str) -> Iterator[client.V1Pod]:
    """The pod, listening at `PORT` of its address, in a namespace of its own; `pods.log_of` has the messages.

    `training` is what the platform file says of training pods, whose image and security it has.
    """
    container = {
        "command": ["python3", "-c", PROGRAM],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
    }
    with scratch(core, {"metadata": {"name": namespace}}):
        core.create_namespaced_pod(namespace, scratch_pod(training, NAME, container))
        yield wait_until("the receiver to listen", lambda: _ready(core, namespace), seconds=120)


def _ready(core: client.CoreV1Api, namespace: str) -> client.V1Pod | None:
    pod = core.read_namespaced_pod(NAME, namespace)
    return pod if any(one.ready for one in pod.status.container_statuses or []) else None
