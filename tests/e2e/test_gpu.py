"""GPU nodes: tainted, one device to one container, devices come and go with their health."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from kubernetes import client
from pods import Pod, log_of, ran_between, scratch, scratch_pod, wait_until

pytestmark = pytest.mark.alone

Launch = Callable[..., str]
# Queues are no matter of these tests: in the training namespace nobody makes pods with GPUs past them.
SCRATCH = "scratch-gpu"
GPU = "nvidia.com/gpu"


@pytest.fixture(scope="module", autouse=True)
def healthy(core: client.CoreV1Api, simulator) -> None:
    """A session that was killed may have left a GPU marked unhealthy."""
    command, node = simulator("ondemand")
    command("healthy", f"GPU-{node}-0")
    wait_until("the GPU to be on its node", lambda: _gpus(core, node) == 1)


@pytest.fixture(scope="module")
def namespace(core: client.CoreV1Api) -> Iterator[str]:
    with scratch(core, {"metadata": {"name": SCRATCH}}):
        yield SCRATCH


@pytest.fixture
def launch(core: client.CoreV1Api, platform: dict, namespace: str) -> Iterator[Launch]:
    """Makes a bare pod, with the trainer image as it is on the nodes."""
    training = platform["training"]
    made = ExitStack()

    def _launch(
        name: str, *, command: list[str], pool: str | None = None, gpus: int = 0, tolerate: bool = False
    ) -> str:
        placement = platform["pools"][pool] if pool else {}
        resources = {"cpu": "100m", "memory": "64Mi"} | ({GPU: str(gpus)} if gpus else {})
        pod = scratch_pod(
            training,
            name,
            {"command": command, "resources": {"requests": resources, "limits": resources}},
            restartPolicy="Never",
            nodeSelector=placement.get("nodeSelector"),
            tolerations=placement.get("tolerations") if tolerate else None,
        )
        made.enter_context(scratch(core, pod, namespace))
        return name

    with made:
        yield _launch


@pytest.fixture
def read_pod(core: client.CoreV1Api, namespace: str) -> Callable[[str], Pod]:
    def _read(name: str) -> Pod:
        pod = core.read_namespaced_pod(name, namespace)
        return core.api_client.sanitize_for_serialization(pod)

    return _read


def test_gpu_nodes_are_what_the_pools_declare(core: client.CoreV1Api, platform: dict) -> None:
    for name, pool in platform["pools"].items():
        nodes = core.list_node(label_selector=f"trainyard.dev/pool={name}").items
        assert nodes, f"no node for pool {name}"
        for node in nodes:
            assert int(node.status.allocatable[pool["resourceName"]]) == pool["gpusPerNode"]
            taints = {(taint.key, taint.effect) for taint in node.spec.taints}
            assert (pool["resourceName"], "NoSchedule") in taints
            assert (("trainyard.dev/spot", "NoSchedule") in taints) == pool["spot"]


def test_a_pod_without_the_toleration_never_lands_on_a_gpu_node(launch: Launch, read_pod, core) -> None:
    refused = launch("e2e-untolerated", command=["true"], pool="ondemand", gpus=1)
    anywhere = launch("e2e-anywhere", command=["true"])

    def why() -> str:
        conditions = read_pod(refused)["status"].get("conditions", [])
        return next((c.get("message", "") for c in conditions if c["type"] == "PodScheduled"), "")

    assert "untolerated taint" in wait_until("the scheduler to refuse the pod", why)
    ended = wait_until("the plain pod to end", lambda: _ended(read_pod(anywhere)))
    node = core.read_node(ended["spec"]["nodeName"])
    assert "trainyard.dev/pool" not in node.metadata.labels


def test_two_gpu_pods_on_a_one_gpu_node_run_one_after_the_other(launch: Launch, read_pod) -> None:
    command = ["sh", "-c", "echo devices=$NVIDIA_VISIBLE_DEVICES > /dev/termination-log; sleep 3"]
    names = [launch(f"e2e-gpu-{i}", command=command, pool="spot", gpus=1, tolerate=True) for i in range(2)]
    pods = [
        wait_until(f"{name} to end", lambda name=name: _ended(read_pod(name)), seconds=180) for name in names
    ]
    (_, first_end), (second_start, _) = sorted(ran_between(pod) for pod in pods)
    assert first_end <= second_start
    devices = {
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"].strip() for pod in pods
    }
    assert len(devices) == 1, "a one-GPU node has one device"
    assert devices.pop().removeprefix("devices="), "the container must be told which device it holds"


def test_an_unhealthy_gpu_is_taken_out_and_comes_back(core: client.CoreV1Api, simulator) -> None:
    command, node = simulator("ondemand")
    device = f"GPU-{node}-0"
    try:
        command("unhealthy", device)
        wait_until("the GPU to leave the node", lambda: _gpus(core, node) == 0)
    finally:
        command("healthy", device)
    wait_until("the GPU to come back", lambda: _gpus(core, node) == 1)


def test_a_gpu_is_handed_out_after_a_kubelet_restart(
    core: client.CoreV1Api, docker: str, simulator, launch: Launch, read_pod
) -> None:
    _, node = simulator("spot")
    (plugin,) = core.list_namespaced_pod(
        "nvidia-device-plugin", field_selector=f"spec.nodeName={node},status.phase=Running"
    ).items

    def registrations() -> int:
        try:
            log = log_of(core, plugin.metadata.name, plugin.metadata.namespace)
        except client.ApiException:  # logs come from the kubelet, which is away for a moment
            return 0
        return log.count('"event": "registered"')

    before = registrations()
    assert before >= 1
    subprocess.run([docker, "exec", node, "systemctl", "restart", "kubelet"], check=True, timeout=60)
    wait_until("the plugin to register with the new kubelet", lambda: registrations() > before)
    names = (f"e2e-after-restart-{number}" for number in itertools.count())

    def pod_with_gpu() -> Pod | None:
        # Until the kubelet has heard of the devices it refuses such pods: UnexpectedAdmissionError.
        name = launch(next(names), command=["true"], pool="spot", gpus=1, tolerate=True)
        ended = wait_until(f"{name} to end", lambda: _ended(read_pod(name)))
        return ended if ended["status"]["phase"] == "Succeeded" else None

    assert wait_until("a GPU pod to run on the node", pod_with_gpu)["spec"]["nodeName"] == node


def _gpus(core: client.CoreV1Api, node: str) -> int:
    return int(core.read_node(node).status.allocatable.get(GPU, 0))


def _ended(pod: Pod) -> Pod | None:
    return pod if pod["status"].get("phase") in ("Succeeded", "Failed") else None
