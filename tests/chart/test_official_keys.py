"""Keys with the official chart's names do here what they do there."""

from __future__ import annotations

import pytest
from components import VARIANTS
from render import (
    POD_KINDS,
    ChartError,
    Object,
    containers,
    find,
    platform,
    pod_spec,
    render_chart,
    render_text,
    worker_pod,
)

EVERYTHING: Object = {
    "airflow": {"dags": {"git": {"bundles": {"one": {"repo": "https://example.com/x.git"}}}}},
}


def pods(objects: list[Object]) -> list[Object]:
    """Every object that makes pods, worker pods as well."""
    return [*(one for one in objects if one["kind"] in POD_KINDS), worker_pod(objects)]


def ingress(**values: object) -> Object:
    """The spec of the api-server's Ingress."""
    objects = render_chart(values={"airflow": {"ingress": {"apiServer": {"enabled": True, **values}}}})
    return find(objects, "Ingress", "trainyard-api-server")["spec"]


@pytest.mark.parametrize(
    "values",
    [
        {"host": "a.example.com"},
        {"hosts": ["a.example.com"]},
        {"hosts": [{"name": "a.example.com"}], "host": "b.example.com"},
    ],
)
def test_an_ingress_has_its_host_in_each_form(values: Object) -> None:
    (rule,) = ingress(**values)["rules"]
    assert rule["host"] == "a.example.com"
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] == "trainyard-api-server"


def test_a_host_has_its_own_certificate_or_that_of_the_ingress() -> None:
    spec = ingress(
        hosts=["a.example.com", {"name": "b.example.com", "tls": {"enabled": True, "secretName": "b"}}],
        tls={"enabled": True, "secretName": "a"},
    )
    assert spec["tls"] == [
        {"hosts": ["a.example.com"], "secretName": "a"},
        {"hosts": ["b.example.com"], "secretName": "b"},
    ]
    assert ingress(host="a.example.com", tls={"enabled": True})["tls"] == [{"hosts": ["a.example.com"]}]


def test_an_ingress_without_hosts_is_refused() -> None:
    with pytest.raises(ChartError, match=r"airflow\.ingress\.apiServer\.hosts: needed where .*; give"):
        render_text(values={"airflow": {"ingress": {"apiServer": {"enabled": True}}}})


@pytest.mark.parametrize("files", [(), ("kind.yaml",)])
def test_one_registry_serves_every_image(files: tuple[str, ...]) -> None:
    assert files in VARIANTS
    objects = render_chart(
        files=files, values={**EVERYTHING, "global": {"imageRegistry": "mirror.example.com:5000/all/"}}
    )
    images = {container["image"] for one in pods(objects) for container in containers(one)}
    images.add(platform(objects)["training"]["image"])
    assert {image.rpartition("/")[0] for image in images} <= {
        "mirror.example.com:5000/all",
        "mirror.example.com:5000/all/trainyard",
        "mirror.example.com:5000/all/nvidia",
    }
    assert len(images) >= 7


def test_a_registry_takes_the_place_of_another_one_once() -> None:
    for repository in ("nvcr.io/x/y", "localhost/x/y", "host:5000/x/y", "x/y", "mirror.example.com/x/y"):
        objects = render_chart(
            values={
                "global": {"imageRegistry": "mirror.example.com"},
                "training": {"image": {"repository": repository, "tag": "1"}},
            }
        )
        assert platform(objects)["training"]["image"] == "mirror.example.com/x/y:1"


def test_pull_secrets_are_names_or_objects_and_those_of_all_are_everywhere() -> None:
    objects = render_chart(
        values={
            "global": {"imagePullSecrets": ["all"]},
            "airflow": {**EVERYTHING["airflow"], "imagePullSecrets": ["one", {"name": "two"}, "all"]},
        }
    )
    for one in pods(objects):
        assert {"name": "all"} in pod_spec(one)["imagePullSecrets"], one["metadata"]["name"]
    assert pod_spec(worker_pod(objects))["imagePullSecrets"] == [
        {"name": "one"},
        {"name": "two"},
        {"name": "all"},
    ]
    assert platform(objects)["training"]["imagePullSecrets"] == [{"name": "all"}]


def test_a_name_of_a_pull_secret_that_cannot_be_is_refused() -> None:
    with pytest.raises(ChartError, match="imagePullSecrets/0"):
        render_text(values={"airflow": {"imagePullSecrets": ["A b"]}})
