"""A network that nothing leaves: every image from one registry by its digest, and no call outside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made import made_at_run_time
from network import End, Network, pod, policies, workloads
from render import POD_KINDS, Object, containers, pod_spec, render_chart

FILES = ("production.yaml", "object-storage.yaml", "closed-network.yaml")
MIRROR = re.compile(r"registry\.example\.com/mirror/[a-z0-9/-]+(:[\w.-]+)?@sha256:[0-9a-f]{64}")


@pytest.fixture
def all_pods(tmp_path: Path) -> list[Object]:
    objects = render_chart(files=FILES)
    made = made_at_run_time(objects, tmp_path)
    return [
        *(one for one in objects if one["kind"] in POD_KINDS),
        *(made[name] for name in ("worker", "training", "model-server")),
    ]


def test_every_image_comes_from_one_registry_by_its_digest(all_pods: list[Object]) -> None:
    images = {container["image"] for one in all_pods for container in containers(one)}
    assert len(images) >= 6
    assert not [image for image in images if not MIRROR.fullmatch(image)]
    volumes = [volume for one in all_pods for volume in pod_spec(one).get("volumes", [])]
    assert not [
        volume for volume in volumes if "image" in volume and not MIRROR.match(volume["image"]["reference"])
    ]


def test_every_pod_has_the_registrys_credentials(all_pods: list[Object]) -> None:
    for one in all_pods:
        assert pod_spec(one)["imagePullSecrets"] == [{"name": "registry"}], one["metadata"]["name"]


def test_nobody_calls_what_is_outside(tmp_path: Path) -> None:
    objects = render_chart(files=FILES)
    made = made_at_run_time(objects, tmp_path)
    ends = {
        **workloads(objects),
        **{
            name: pod(name, f"10.244.1.{number}", made[name])
            for number, name in enumerate(("worker", "training", "model-server"))
        },
    }
    network = Network(policies(objects))
    for address in ("203.0.113.7", "10.20.0.11", "10.96.0.2"):
        outside = End("outside", address)
        assert not [
            name
            for name, end in ends.items()
            for port in (22, 80, 443, 5432, 6443)
            if network.allows(end, outside, port)
        ]
    database = End("database", "10.20.0.10")
    assert {name for name, end in ends.items() if network.allows(end, database, 5432)} >= {
        "trainyard-api-server",
        "trainyard-mlflow",
    }
