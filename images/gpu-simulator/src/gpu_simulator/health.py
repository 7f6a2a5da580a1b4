"""The health of the devices: a device is unhealthy while the health directory has a file with its name.

`touch DIRECTORY/GPU-<node>-0` on the node makes a GPU unhealthy; removing the file makes it healthy again.
"""

from gpu_simulator.config import Config
from gpu_simulator.v1beta1 import deviceplugin_pb2 as api

HEALTHY, UNHEALTHY = "Healthy", "Unhealthy"  # the API's values


def devices(config: Config) -> list[api.Device]:
    """Return all devices with their current health."""
    return [
        api.Device(ID=device, health=UNHEALTHY if (config.health_directory / device).exists() else HEALTHY)
        for device in config.device_ids
    ]


def mark(config: Config, device: str, *, healthy: bool) -> None:
    """Mark a device healthy or unhealthy. Raises ValueError when the node has no such device."""
    if device not in config.device_ids:
        raise ValueError(f"this node has no device {device!r}; it has {', '.join(config.device_ids)}")
    marker = config.health_directory / device
    if healthy:
        marker.unlink(missing_ok=True)
    else:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
