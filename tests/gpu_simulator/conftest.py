"""A kubelet, as far as device plugins see one, and the simulator as a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

SOURCE = Path(__file__).parents[2] / "images/gpu-simulator/src"
sys.path.insert(0, str(SOURCE))

from gpu_simulator.v1beta1 import deviceplugin_pb2 as api  # noqa: E402
from gpu_simulator.v1beta1 import deviceplugin_pb2_grpc as rpc  # noqa: E402


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class Kubelet(rpc.RegistrationServicer):
    """The kubelet's Registration service on a real socket, and calls to the plugins that register."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.registrations: list[api.RegisterRequest] = []
        self._server: grpc.Server | None = None

    def Register(self, request, context):
        # As the real one does: the plugin must be serving when it registers.
        assert (self.directory / request.endpoint).is_socket()
        self.registrations.append(request)
        return api.Empty()

    def start(self) -> None:
        """Like the kubelet: first delete what lies in the directory, then listen."""
        for file in self.directory.iterdir():
            file.unlink()
        self._server = grpc.server(ThreadPoolExecutor(2))
        rpc.add_RegistrationServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix://{self.directory}/kubelet.sock")
        self._server.start()

    def stop(self) -> None:
        if self._server:
            self._server.stop(None).wait()
            self._server = None

    def plugin(self) -> rpc.DevicePluginStub:
        endpoint = self.registrations[-1].endpoint
        return rpc.DevicePluginStub(grpc.insecure_channel(f"unix://{self.directory}/{endpoint}"))


class Simulator:
    """The simulator's command line on one node."""

    def __init__(self, kubelet: Kubelet, health: Path, log: Path) -> None:
        self.health = health
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(SOURCE),
            "NODE_NAME": "worker-1",
            "GPU_COUNT": "2",
            "DEVICE_PLUGIN_DIRECTORY": str(kubelet.directory),
            "HEALTH_DIRECTORY": str(health),
        }

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gpu_simulator"], env=self.environment, stdout=log, stderr=log
            )

    def terminate(self) -> int:
        assert self._process
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=30)

    def kill(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gpu_simulator", *arguments],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def events(self, name: str) -> list[dict]:
        return [
            event for event in map(json.loads, self.log.read_text().splitlines()) if event["event"] == name
        ]


@pytest.fixture
def kubelet() -> Iterator[Kubelet]:
    # Not tmp_path: the path of a socket has at most 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="kubelet-"))
    kubelet = Kubelet(directory)
    kubelet.start()
    yield kubelet
    kubelet.stop()
    shutil.rmtree(directory)


@pytest.fixture
def simulator(kubelet: Kubelet, tmp_path: Path) -> Iterator[Simulator]:
    simulator = Simulator(kubelet, tmp_path / "health", tmp_path / "log")
    yield simulator
    simulator.kill()


@pytest.fixture
def running(kubelet: Kubelet, simulator: Simulator) -> Simulator:
    simulator.start()
    wait_for(lambda: kubelet.registrations)
    return simulator
