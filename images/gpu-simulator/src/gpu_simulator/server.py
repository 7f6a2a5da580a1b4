# The generated stubs have no types.
# mypy: allow-untyped-calls
"""Serve the plugin and register it with the kubelet, again after each restart of the kubelet."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from gpu_simulator import log
from gpu_simulator.config import Config
from gpu_simulator.plugin import OPTIONS, POLL_SECONDS, Plugin
from gpu_simulator.v1beta1 import deviceplugin_pb2 as api
from gpu_simulator.v1beta1 import deviceplugin_pb2_grpc as rpc

_END = {signal.SIGTERM, signal.SIGINT}
_API_VERSION = "v1beta1"
_TIMEOUT_SECONDS = 5.0
_RETRY_SECONDS = 1.0
# A stream of a kubelet that has stopped holds a thread until it notices; all other calls are short.
_THREADS = 8
# Identifies the socket at a path: a new one has another inode, or at least another change time.
Identity = tuple[int, int]


def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT."""
    # sigtimedwait below receives the signals, so that no handler interrupts the loop.
    signal.pthread_sigmask(signal.SIG_BLOCK, _END)
    log.event("started", resource=config.resource_name, devices=config.device_ids)
    while not _serve(config):
        log.event("kubelet_restarted")
    log.event("stopped")


def check(config: Config) -> None:
    """Call the plugin at its socket. Raises grpc.RpcError when it does not respond."""
    with grpc.insecure_channel(f"unix://{config.socket}") as channel:
        rpc.DevicePluginStub(channel).GetDevicePluginOptions(api.Empty(), timeout=_TIMEOUT_SECONDS)


def _serve(config: Config) -> bool:
    """Serve until the kubelet restarts, then return False; return True after a signal."""
    config.socket.unlink(missing_ok=True)
    plugin = Plugin(config)
    server = grpc.server(ThreadPoolExecutor(_THREADS))
    rpc.add_DevicePluginServicer_to_server(plugin, server)
    server.add_insecure_port(f"unix://{config.socket}")
    server.start()
    try:
        own = _identity(config.socket)
        registered_with = None
        while True:
            kubelet = _identity(config.kubelet_socket)
            if _identity(config.socket) != own or (
                registered_with and kubelet not in (None, registered_with)
            ):
                return False
            if registered_with is None and kubelet is not None and _register(config):
                registered_with = kubelet
            pause = POLL_SECONDS if registered_with else _RETRY_SECONDS
            if signal.sigtimedwait(_END, pause):
                return True
    finally:
        plugin.stop()
        server.stop(grace=1).wait()
        config.socket.unlink(missing_ok=True)


def _register(config: Config) -> bool:
    """Register, and return whether the kubelet accepted it."""
    request = api.RegisterRequest(
        version=_API_VERSION,
        endpoint=config.socket.name,
        resource_name=config.resource_name,
        options=OPTIONS,
    )
    try:
        with grpc.insecure_channel(f"unix://{config.kubelet_socket}") as channel:
            rpc.RegistrationStub(channel).Register(request, timeout=_TIMEOUT_SECONDS)
    except grpc.RpcError as error:
        log.event("register_failed", level="warning", code=error.code().name, reason=error.details())
        return False
    log.event("registered", resource=config.resource_name, endpoint=config.socket.name)
    return True


def _identity(socket: Path) -> Identity | None:
    try:
        status = socket.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns
