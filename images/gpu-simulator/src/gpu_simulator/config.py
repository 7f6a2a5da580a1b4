"""The environment of the simulator."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

_LONGEST_ID = 63  # characters, the API's limit
_MOST_DEVICES = 64


class ConfigError(Exception):
    """A variable of the environment is wrong; the message names it."""


@dataclass(frozen=True)
class Config:
    """What to offer, and where the kubelet is."""

    resource_name: str  # such as nvidia.com/gpu
    device_ids: tuple[str, ...]  # the same whenever the simulator starts on this node
    plugin_directory: Path  # the kubelet's, with kubelet.sock
    health_directory: Path  # a file named after a device in there makes that device unhealthy

    @property
    def kubelet_socket(self) -> Path:
        """Where the kubelet takes registrations."""
        return self.plugin_directory / "kubelet.sock"

    @property
    def socket(self) -> Path:
        """Where the simulator serves this resource."""
        return self.plugin_directory / f"simulated-{self.resource_name.replace('/', '-')}.sock"

    @classmethod
    def from_environment(cls) -> "Config":
        """Read the environment. Raises ConfigError."""
        count = os.environ.get("GPU_COUNT", "")
        if not count.isdigit() or not 1 <= int(count) <= _MOST_DEVICES:
            raise ConfigError(
                f"GPU_COUNT is {count!r}; use the number of GPUs of the node, 1 to {_MOST_DEVICES}"
            )
        node = os.environ.get("NODE_NAME", "")
        if not node:
            raise ConfigError("NODE_NAME is not set; the names of the devices are made from it")
        resource_name = os.environ.get("RESOURCE_NAME") or "nvidia.com/gpu"
        if not re.fullmatch(r"[a-z0-9.-]+/[A-Za-z0-9._-]+", resource_name):
            raise ConfigError(f"RESOURCE_NAME is {resource_name!r}; use domain/name, such as nvidia.com/gpu")
        plugins = Path(os.environ.get("DEVICE_PLUGIN_DIRECTORY") or "/var/lib/kubelet/device-plugins")
        if not plugins.is_dir():
            raise ConfigError(f"DEVICE_PLUGIN_DIRECTORY {plugins} is no directory; mount the kubelet's there")
        return cls(
            resource_name=resource_name,
            device_ids=tuple(_device_id(node, index) for index in range(int(count))),
            plugin_directory=plugins,
            health_directory=Path(os.environ.get("HEALTH_DIRECTORY") or "/var/lib/trainyard/gpu-health"),
        )


def _device_id(node: str, index: int) -> str:
    name = f"GPU-{node}-{index}"
    if len(name) <= _LONGEST_ID:
        return name
    return f"GPU-{hashlib.sha256(node.encode()).hexdigest()[:32]}-{index}"
