"""The environment of the simulator, checked."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

_MAX_ID_LENGTH = 63  # characters, the API's limit
_MAX_DEVICES = 64


class ConfigError(Exception):
    """A variable of the environment is wrong; the message names it."""


@dataclass(frozen=True)
class Config:
    """The devices to advertise, and the directories."""

    resource_name: str  # such as nvidia.com/gpu
    device_ids: tuple[str, ...]  # stable: the same after each start on this node
    plugin_directory: Path  # of the kubelet, with kubelet.sock
    health_directory: Path  # a file with the name of a device makes it unhealthy

    @property
    def kubelet_socket(self) -> Path:
        """The socket where plugins register."""
        return self.plugin_directory / "kubelet.sock"

    @property
    def socket(self) -> Path:
        """The socket of the simulator for this resource."""
        return self.plugin_directory / f"simulated-{self.resource_name.replace('/', '-')}.sock"

    @classmethod
    def from_environment(cls) -> "Config":
        """Read the environment. Raises ConfigError."""
        count = os.environ.get("GPU_COUNT", "")
        if not count.isdigit() or not 1 <= int(count) <= _MAX_DEVICES:
            raise ConfigError(
                f"GPU_COUNT is {count!r}; use the number of GPUs of the node, 1 to {_MAX_DEVICES}"
            )
        node = os.environ.get("NODE_NAME", "")
        if not node:
            raise ConfigError("NODE_NAME is not set; the device ids contain it")
        resource_name = os.environ.get("RESOURCE_NAME") or "nvidia.com/gpu"
        if not re.fullmatch(r"[a-z0-9.-]+/[A-Za-z0-9._-]+", resource_name):
            raise ConfigError(f"RESOURCE_NAME is {resource_name!r}; use domain/name, such as nvidia.com/gpu")
        plugins = Path(os.environ.get("DEVICE_PLUGIN_DIRECTORY") or "/var/lib/kubelet/device-plugins")
        if not plugins.is_dir():
            raise ConfigError(
                f"DEVICE_PLUGIN_DIRECTORY {plugins} is not a directory; mount the kubelet's directory there"
            )
        return cls(
            resource_name=resource_name,
            device_ids=tuple(_device_id(node, index) for index in range(int(count))),
            plugin_directory=plugins,
            health_directory=Path(os.environ.get("HEALTH_DIRECTORY") or "/var/lib/trainyard/gpu-health"),
        )


def _device_id(node: str, index: int) -> str:
    name = f"GPU-{node}-{index}"
    if len(name) <= _MAX_ID_LENGTH:
        return name
    return f"GPU-{hashlib.sha256(node.encode()).hexdigest()[:32]}-{index}"
