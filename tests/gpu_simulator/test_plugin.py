"""The simulator as the kubelet meets it: over gRPC on unix sockets."""

import time

import grpc
import pytest
from conftest import Kubelet, Simulator, wait_for
from gpu_simulator.v1beta1 import deviceplugin_pb2 as api

DEVICES = ["GPU-worker-1-0", "GPU-worker-1-1"]
ALL_HEALTHY = dict.fromkeys(DEVICES, "Healthy")


def health(response: api.ListAndWatchResponse) -> dict[str, str]:
    return {device.ID: device.health for device in response.devices}


def allocation(*containers: list[str]) -> api.AllocateRequest:
    requests = [api.ContainerAllocateRequest(devices_ids=ids) for ids in containers]
    return api.AllocateRequest(container_requests=requests)


def test_registers_what_it_serves(kubelet: Kubelet, running: Simulator):
    (request,) = kubelet.registrations
    assert (request.version, request.resource_name) == ("v1beta1", "nvidia.com/gpu")
    options = kubelet.plugin().GetDevicePluginOptions(api.Empty(), timeout=5)
    assert options == request.options
    assert options.get_preferred_allocation_available and not options.pre_start_required


def test_lists_its_devices(kubelet: Kubelet, running: Simulator):
    assert health(next(kubelet.plugin().ListAndWatch(api.Empty(), timeout=5))) == ALL_HEALTHY


def test_each_container_sees_its_own_devices(kubelet: Kubelet, running: Simulator):
    response = kubelet.plugin().Allocate(allocation([DEVICES[1]], [DEVICES[0]]), timeout=5)
    visible = [container.envs["NVIDIA_VISIBLE_DEVICES"] for container in response.container_responses]
    assert visible == [DEVICES[1], DEVICES[0]]


def test_a_container_may_get_several_devices(kubelet: Kubelet, running: Simulator):
    (container,) = kubelet.plugin().Allocate(allocation(DEVICES), timeout=5).container_responses
    assert container.envs["NVIDIA_VISIBLE_DEVICES"] == ",".join(DEVICES)


@pytest.mark.parametrize(
    ("containers", "message"),
    [
        ([["GPU-other-0"]], "this node has no device GPU-other-0"),
        ([[DEVICES[0]], [DEVICES[0]]], "requested twice"),
    ],
)
def test_refuses_devices_it_cannot_hand_out(kubelet: Kubelet, running: Simulator, containers, message):
    with pytest.raises(grpc.RpcError) as refused:
        kubelet.plugin().Allocate(allocation(*containers), timeout=5)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in refused.value.details()


def test_prefers_what_must_be_included_then_the_lowest(kubelet: Kubelet, running: Simulator):
    request = api.PreferredAllocationRequest()
    request.container_requests.add(available_deviceIDs=reversed(DEVICES), allocation_size=1)
    request.container_requests.add(
        available_deviceIDs=DEVICES, must_include_deviceIDs=[DEVICES[1]], allocation_size=2
    )
    response = kubelet.plugin().GetPreferredAllocation(request, timeout=5)
    preferred = [list(container.deviceIDs) for container in response.container_responses]
    assert preferred == [[DEVICES[0]], [DEVICES[1], DEVICES[0]]]


def test_pre_start_does_nothing(kubelet: Kubelet, running: Simulator):
    kubelet.plugin().PreStartContainer(api.PreStartContainerRequest(devices_ids=DEVICES), timeout=5)


def test_an_unhealthy_device_is_reported_within_seconds(kubelet: Kubelet, running: Simulator):
    stream = kubelet.plugin().ListAndWatch(api.Empty(), timeout=20)
    assert health(next(stream)) == ALL_HEALTHY
    assert running.command("unhealthy", DEVICES[0]).returncode == 0
    started = time.monotonic()
    assert health(next(stream)) == ALL_HEALTHY | {DEVICES[0]: "Unhealthy"}
    assert time.monotonic() - started < 3  # half a second where nothing else runs
    (running.health / DEVICES[0]).unlink()  # what the command `healthy` does, as an operator on the node
    assert health(next(stream)) == ALL_HEALTHY


def test_devices_stay_unhealthy_when_the_simulator_restarts(kubelet: Kubelet, running: Simulator):
    running.command("unhealthy", DEVICES[1])
    running.terminate()
    running.start()
    wait_for(lambda: len(kubelet.registrations) == 2)
    devices = health(next(kubelet.plugin().ListAndWatch(api.Empty(), timeout=5)))
    assert devices == ALL_HEALTHY | {DEVICES[1]: "Unhealthy"}
    assert running.command("healthy", DEVICES[1]).returncode == 0
    assert health(next(kubelet.plugin().ListAndWatch(api.Empty(), timeout=5))) == ALL_HEALTHY


def test_registers_again_when_the_kubelet_restarts(kubelet: Kubelet, running: Simulator):
    stream = kubelet.plugin().ListAndWatch(api.Empty())
    next(stream)
    kubelet.stop()
    time.sleep(1)  # the kubelet takes its time, and its socket is gone meanwhile
    kubelet.start()
    wait_for(lambda: len(kubelet.registrations) == 2)
    assert health(next(kubelet.plugin().ListAndWatch(api.Empty(), timeout=5))) == ALL_HEALTHY
    assert list(stream) == []  # the stream of the kubelet before has ended


def test_restarts_leave_nothing_behind(kubelet: Kubelet, running: Simulator):
    for count in range(2, 12):  # more than the simulator has threads
        kubelet.plugin().ListAndWatch(api.Empty())
        kubelet.stop()
        kubelet.start()
        wait_for(lambda count=count: len(kubelet.registrations) == count)
    assert health(next(kubelet.plugin().ListAndWatch(api.Empty(), timeout=5))) == ALL_HEALTHY


def test_waits_for_a_kubelet_that_comes_later(kubelet: Kubelet, simulator: Simulator):
    kubelet.stop()
    simulator.start()
    wait_for(lambda: simulator.log.exists() and simulator.events("started"))
    time.sleep(1)
    kubelet.start()
    wait_for(lambda: kubelet.registrations)


def test_ends_at_once_and_cleans_up_at_sigterm(kubelet: Kubelet, running: Simulator):
    socket = kubelet.directory / kubelet.registrations[0].endpoint
    next(kubelet.plugin().ListAndWatch(api.Empty()))
    started = time.monotonic()
    assert running.terminate() == 0
    assert time.monotonic() - started < 5
    assert not socket.exists()
    assert running.events("stopped")


def test_takes_over_after_a_kill(kubelet: Kubelet, running: Simulator):
    running.kill()
    running.start()
    wait_for(lambda: len(kubelet.registrations) == 2)
    assert health(next(kubelet.plugin().ListAndWatch(api.Empty(), timeout=5))) == ALL_HEALTHY
