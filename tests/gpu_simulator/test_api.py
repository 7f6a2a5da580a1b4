"""The wire format is the kubelet's, and the generated modules are those of the .proto."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import SOURCE
from gpu_simulator.v1beta1 import deviceplugin_pb2 as api

# From k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1/api.proto.
MESSAGES = {
    "DevicePluginOptions": {"pre_start_required": 1, "get_preferred_allocation_available": 2},
    "RegisterRequest": {"version": 1, "endpoint": 2, "resource_name": 3, "options": 4},
    "Empty": {},
    "ListAndWatchResponse": {"devices": 1},
    "TopologyInfo": {"nodes": 1},
    "NUMANode": {"ID": 1},
    "Device": {"ID": 1, "health": 2, "topology": 3},
    "PreStartContainerRequest": {"devices_ids": 1},
    "PreStartContainerResponse": {},
    "PreferredAllocationRequest": {"container_requests": 1},
    "ContainerPreferredAllocationRequest": {
        "available_deviceIDs": 1,
        "must_include_deviceIDs": 2,
        "allocation_size": 3,
    },
    "PreferredAllocationResponse": {"container_responses": 1},
    "ContainerPreferredAllocationResponse": {"deviceIDs": 1},
    "AllocateRequest": {"container_requests": 1},
    "ContainerAllocateRequest": {"devices_ids": 1},
    "CDIDevice": {"name": 1},
    "AllocateResponse": {"container_responses": 1},
    "ContainerAllocateResponse": {
        "envs": 1,
        "mounts": 2,
        "devices": 3,
        "annotations": 4,
        "cdi_devices": 5,
    },
    "Mount": {"container_path": 1, "host_path": 2, "read_only": 3},
    "DeviceSpec": {"container_path": 1, "host_path": 2, "permissions": 3},
}


def test_messages_are_the_kubelets():
    found = {
        name: {field.name: field.number for field in message.fields}
        for name, message in api.DESCRIPTOR.message_types_by_name.items()
    }
    assert found == MESSAGES


def test_generated_modules_are_up_to_date(tmp_path: Path):
    environment = os.environ | {"PYTHON": sys.executable}
    subprocess.run([Path(__file__).with_name("regenerate"), tmp_path], env=environment, check=True)
    package = Path("gpu_simulator/v1beta1")
    for module in (tmp_path / package).iterdir():
        assert module.read_text() == (SOURCE / package / module.name).read_text(), "run regenerate"
