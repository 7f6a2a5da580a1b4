"""The service that the kubelet calls: which devices there are, and what a container gets with them."""

import threading
from collections.abc import Iterator

import grpc

from gpu_simulator import health, log
from gpu_simulator.config import Config
from gpu_simulator.v1beta1 import deviceplugin_pb2 as api
from gpu_simulator.v1beta1 import deviceplugin_pb2_grpc as rpc

# How soon the kubelet hears of a device's health.
POLL_SECONDS = 0.5
OPTIONS = api.DevicePluginOptions(pre_start_required=False, get_preferred_allocation_available=True)


class Plugin(rpc.DevicePluginServicer):
    """The DevicePlugin service; the kubelet sees to it that a device goes to one container only."""

    def __init__(self, config: Config) -> None:
        """Offer the devices of the configuration."""
        self._config = config
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End the streams that are open."""
        self._stopping.set()

    def GetDevicePluginOptions(
        self, request: api.Empty, context: grpc.ServicerContext
    ) -> api.DevicePluginOptions:
        """Say which of the optional calls make sense."""
        return OPTIONS

    def ListAndWatch(
        self, request: api.Empty, context: grpc.ServicerContext
    ) -> Iterator[api.ListAndWatchResponse]:
        """Send all devices at once, and again whenever the health of one changes."""
        sent = None
        while context.is_active() and not self._stopping.is_set():
            devices = health.devices(self._config)
            if devices != sent:
                log.event("devices_listed", devices={device.ID: device.health for device in devices})
                yield api.ListAndWatchResponse(devices=devices)
                sent = devices
            self._stopping.wait(POLL_SECONDS)

    def GetPreferredAllocation(
        self, request: api.PreferredAllocationRequest, context: grpc.ServicerContext
    ) -> api.PreferredAllocationResponse:
        """Prefer the devices that must be included, then those of the lowest index."""
        response = api.PreferredAllocationResponse()
        for wanted in request.container_requests:
            must = list(wanted.must_include_deviceIDs)
            others = set(wanted.available_deviceIDs) - set(must)
            preferred = must + [device for device in self._config.device_ids if device in others]
            response.container_responses.add(deviceIDs=preferred[: wanted.allocation_size])
        return response

    def Allocate(self, request: api.AllocateRequest, context: grpc.ServicerContext) -> api.AllocateResponse:
        """Tell each container its devices by the variable that NVIDIA's runtime reads."""
        response = api.AllocateResponse()
        given: set[str] = set()
        for container in request.container_requests:
            ids = list(container.devices_ids)
            self._require(ids, given, context)
            given.update(ids)
            response.container_responses.add(
                envs={"NVIDIA_VISIBLE_DEVICES": ",".join(ids)},
                annotations={"trainyard.dev/simulated-devices": ",".join(ids)},
            )
            log.event("devices_allocated", devices=ids)
        return response

    def _require(self, ids: list[str], given: set[str], context: grpc.ServicerContext) -> None:
        if unknown := sorted(set(ids) - set(self._config.device_ids)):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"this node has no device {', '.join(unknown)}")
        if len(set(ids)) != len(ids) or given & set(ids):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"a device is asked for twice: {', '.join(ids)}")

    def PreStartContainer(
        self, request: api.PreStartContainerRequest, context: grpc.ServicerContext
    ) -> api.PreStartContainerResponse:
        """Do nothing: simulated devices need no reset."""
        return api.PreStartContainerResponse()
