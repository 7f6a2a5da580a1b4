"""NVIDIA's device plugin: what MIG devices, device lists and a configuration file need of its pod."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from render import Object, containers, environment, find, pod_spec, render_chart

NAME = "trainyard-nvidia-device-plugin"
SHARED = {
    "version": "v1",
    "sharing": {"timeSlicing": {"resources": [{"name": "nvidia.com/gpu", "replicas": 4}]}},
}


def render(**values: Any) -> list[Object]:
    return render_chart(values={"nvidia-device-plugin": values})


def plugin(objects: list[Object]) -> tuple[Object, Object]:
    """The pod and its container."""
    daemon_set = find(objects, "DaemonSet", NAME)
    (container,) = containers(daemon_set)
    return pod_spec(daemon_set), container


def test_whole_gpus_need_no_rights_and_nothing_of_the_node_but_the_kubelets_socket() -> None:
    pod, container = plugin(render())
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [volume["name"] for volume in pod["volumes"]] == ["device-plugins"]
    assert set(environment(container)) == {
        "NODE_NAME",
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
    }


@pytest.mark.parametrize(
    "values",
    [
        {"migStrategy": "single"},
        {"deviceListStrategy": "volume-mounts"},
        {"config": {"map": {"mig": {"version": "v1", "flags": {"migStrategy": "mixed"}}}}},
        {
            "config": {
                "map": {"a": "{version: v1, flags: {plugin: {deviceListStrategy: [envvar, volume-mounts]}}}"}
            }
        },
        {"config": {"name": "mine", "default": "a"}},
    ],
    ids=["MIG", "volumes", "MIG in a file", "volumes in a file", "a file of the user"],
)
def test_a_container_to_which_the_runtime_gives_more_has_the_capability_for_it(values: Object) -> None:
    """The API server refuses the capability beside allowPrivilegeEscalation: false."""
    _, container = plugin(render(**values))
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]},
    }


def test_mig_devices_are_watched() -> None:
    _, container = plugin(render(migStrategy="mixed"))
    variables = environment(container)
    assert (variables["MIG_STRATEGY"], variables["NVIDIA_MIG_MONITOR_DEVICES"]) == ("mixed", "all")
    _, container = plugin(render(config={"map": {"mig": {"version": "v1", "flags": {"migStrategy": "mixed"}}}}))
    assert environment(container)["NVIDIA_MIG_MONITOR_DEVICES"] == "all"


def test_what_a_file_of_the_user_may_say_is_provided_for() -> None:
    pod, container = plugin(render(config={"name": "mine", "default": "a"}, nvidiaDriverRoot="/"))
    assert environment(container)["NVIDIA_MIG_MONITOR_DEVICES"] == "all"
    assert {"cdi", "driver"} < {volume["name"] for volume in pod["volumes"]}


def test_the_drivers_root_is_there_for_every_strategy() -> None:
    pod, container = plugin(render(nvidiaDriverRoot="/run/nvidia/driver"))
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["driver"] == "/driver-root" and "cdi" not in mounts


@pytest.mark.parametrize("strategy", ["cdi-annotations", "cdi-cri"])
def test_cdi_specifications_are_written_onto_the_node(strategy: str) -> None:
    pod, container = plugin(render(deviceListStrategy=strategy, nvidiaDriverRoot="/run/nvidia/driver"))
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"]}
    assert (mounts["cdi"]["mountPath"], paths["cdi"]) == ("/var/run/cdi", "/var/run/cdi")
    assert (mounts["driver"]["mountPath"], paths["driver"]) == ("/driver-root", "/run/nvidia/driver")
    assert environment(container)["NVIDIA_DRIVER_ROOT"] == "/run/nvidia/driver"
    assert "add" not in container["securityContext"]["capabilities"]


def test_a_configuration_file_is_mounted_and_a_change_of_it_restarts() -> None:
    text = yaml.safe_dump({"version": "v1", "flags": {"failOnInitError": False}})
    objects = render(config={"map": {"shared": SHARED, "text": text}, "default": "shared"})
    config_map = find(objects, "ConfigMap", f"{NAME}-configs")
    assert config_map["metadata"]["namespace"] == "nvidia-device-plugin"
    assert yaml.safe_load(config_map["data"]["shared"]) == SHARED
    assert config_map["data"]["text"] == text
    pod, container = plugin(objects)
    assert environment(container)["CONFIG_FILE"] == "/config/shared"
    assert {"name": "config", "configMap": {"name": f"{NAME}-configs"}} in pod["volumes"]
    # What a variable says goes before the file.
    assert not {"MIG_STRATEGY", "DEVICE_LIST_STRATEGY", "FAIL_ON_INIT_ERROR"} & set(environment(container))
    other = render(config={"map": {"shared": {**SHARED, "flags": {}}, "text": text}, "default": "shared"})

    def annotations(rendered: list[Object]) -> Object:
        return find(rendered, "DaemonSet", NAME)["spec"]["template"]["metadata"]["annotations"]

    assert annotations(objects) != annotations(other)


def test_a_config_map_of_the_user_may_have_any_name() -> None:
    pod, container = plugin(render(config={"name": "1e3", "default": "true"}))
    assert {"name": "config", "configMap": {"name": "1e3"}} in pod["volumes"]
    assert environment(container)["CONFIG_FILE"] == "/config/true"
    objects = render(config={"map": {"1e3": "version: v1"}})
    assert find(objects, "ConfigMap", f"{NAME}-configs")["data"] == {"1e3": "version: v1"}
