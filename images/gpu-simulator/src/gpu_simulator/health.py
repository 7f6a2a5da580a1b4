"""Which devices are healthy: all but those after which a file in the health directory is named.

So a GPU is broken by `touch DIRECTORY/GPU-<node>-0` on the node, and mended by removing the file.
"""

from gpu_simulator.config import Config
from gpu_simulator.v1beta1 import deviceplugin_pb2 as api

HEALTHY, UNHEALTHY = "Healthy", "Unhealthy"  # as the API spells them


def devices(config: Config) -> list[api.Device]:
    """Return all devices with their health of this moment."""
    return [
        api.Device(ID=device, health=UNHEALTHY if (config.health_directory / device).exists() else HEALTHY)
        for device in config.device_ids
    ]


def mark(config: Config, device: str, *, healthy: bool) -> None:
    """Break or mend a device. Raises ValueError when the node has no such device."""
    if device not in config.device_ids:
        raise ValueError(f"this node has no device {device!r}; it has {', '.join(config.device_ids)}")
    marker = config.health_directory / device
    if healthy:
        marker.unlink(missing_ok=True)
    else:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
