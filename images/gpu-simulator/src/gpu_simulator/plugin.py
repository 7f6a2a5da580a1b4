"""The service that the kubelet calls: it lists the devices and allocates them to containers."""

import threading
from collections.abc import Iterator

import grpc

from gpu_simulator import health, log
from gpu_simulator.config import Config
from gpu_simulator.v1beta1 import deviceplugin_pb2 as api
from gpu_simulator.v1beta1 import deviceplugin_pb2_grpc as rpc

# The maximum delay until the kubelet sees a change of health.
POLL_SECONDS = 0.5
OPTIONS = api.DevicePluginOptions(pre_start_required=False, get_preferred_allocation_available=True)


class Plugin(rpc.DevicePluginServicer):
    """The DevicePlugin service; the kubelet allocates each device to at most one container."""

    def __init__(self, config: Config) -> None:
        """Serve the devices of the configuration."""
        self._config = config
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End the open streams."""
        self._stopping.set()

    def GetDevicePluginOptions(
        self, request: api.Empty, context: grpc.ServicerContext
    ) -> api.DevicePluginOptions:
        """Return which optional calls are supported."""
        return OPTIONS

    def ListAndWatch(
        self, request: api.Empty, context: grpc.ServicerContext
    ) -> Iterator[api.ListAndWatchResponse]:
        """Send all devices, and send them again whenever the health of one changes."""
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
        """Prefer the required devices, then those with the lowest index."""
        response = api.PreferredAllocationResponse()
        for wanted in request.container_requests:
            required = list(wanted.must_include_deviceIDs)
            others = set(wanted.available_deviceIDs) - set(required)
            preferred = required + [device for device in self._config.device_ids if device in others]
            response.container_responses.add(deviceIDs=preferred[: wanted.allocation_size])
        return response

    def Allocate(self, request: api.AllocateRequest, context: grpc.ServicerContext) -> api.AllocateResponse:
        """Set the environment variable that NVIDIA's container runtime reads to the allocated devices."""
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
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"a device is requested twice: {', '.join(ids)}")

    def PreStartContainer(
        self, request: api.PreStartContainerRequest, context: grpc.ServicerContext
    ) -> api.PreStartContainerResponse:
        """Do nothing: simulated devices need no reset."""
        return api.PreStartContainerResponse()
