"""What the platform adds to Airflow's pods stands beside what users add; no list of theirs replaces it."""

from __future__ import annotations

from typing import Any

import pytest
from render import (
    CHART,
    ChartError,
    Object,
    containers,
    environment,
    find,
    pod_spec,
    render_chart,
    worker_pod,
)

DEPLOYMENTS = {
    "apiServer": "trainyard-api-server",
    "scheduler": "trainyard-scheduler",
    "dagProcessor": "trainyard-dag-processor",
    "triggerer": "trainyard-triggerer",
}
CA = {"name": "cluster-ca", "configMap": {"name": "kube-root-ca.crt"}}
CA_MOUNT = {"name": "cluster-ca", "mountPath": "/etc/ssl/own/ca.crt", "subPath": "ca.crt", "readOnly": True}
PLATFORM = {"name": "platform", "configMap": {"name": "trainyard-platform"}}
PLATFORM_MOUNT = {"name": "platform", "mountPath": "/opt/airflow/platform", "readOnly": True}
CONNECTION = "AIRFLOW_CONN_TRAINYARD_S3"


def airflow_pods(objects: list[Object]) -> dict[str, Object]:
    """Every object that makes pods of Airflow's, and the worker pod."""
    pods = {name: find(objects, "Deployment", name) for name in DEPLOYMENTS.values()}
    pods["migrate-database"] = find(objects, "Job", "trainyard-migrate-database")
    pods["database-cleanup"] = find(objects, "CronJob", "trainyard-database-cleanup")
    pods["worker"] = worker_pod(objects)
    return pods


def check_names(pod: Object) -> None:
    """No name twice, and no mount without a volume."""
    spec = pod_spec(pod)
    volumes = [volume["name"] for volume in spec["volumes"]]
    assert len(volumes) == len(set(volumes)), volumes
    for container in containers(pod):
        mounts = container.get("volumeMounts", [])
        assert {mount["name"] for mount in mounts} <= set(volumes)
        paths = [mount["mountPath"] for mount in mounts]
        assert len(paths) == len(set(paths)), paths
        variables = [variable["name"] for variable in container.get("env", [])]
        assert len(variables) == len(set(variables)), variables


@pytest.mark.parametrize("repeated", [[], [PLATFORM_MOUNT]], ids=["own", "platform's repeated"])
def test_own_volumes_come_beside_the_platforms(repeated: list[Object]) -> None:
    """Repeating the platform's mount, as earlier versions of the chart wanted it, does no harm."""
    values = {"volumes": [CA], "volumeMounts": [*repeated, CA_MOUNT]}
    for name, pod in airflow_pods(render_chart(values={"airflow": values})).items():
        check_names(pod)
        volumes, mounts = pod_spec(pod)["volumes"], pod_spec(pod)["containers"][0]["volumeMounts"]
        assert CA in volumes and PLATFORM in volumes, name
        assert CA_MOUNT in mounts and PLATFORM_MOUNT in mounts, name


@pytest.mark.parametrize("key", DEPLOYMENTS)
def test_own_extra_volumes_come_beside_the_platforms(key: str) -> None:
    """One component's volumes; the dag-processor and the triggerer keep the alerts' as well."""
    own = {"name": "connection-config", "secret": {"secretName": "airflow-connection-config"}}
    objects = render_chart(values={"airflow": {key: {"extraVolumes": [own]}}})
    pod = find(objects, "Deployment", DEPLOYMENTS[key])
    check_names(pod)
    volumes = pod_spec(pod)["volumes"]
    assert own in volumes and PLATFORM in volumes
    alerts = [volume["name"] for volume in volumes if volume["name"] == "alerts"]
    assert alerts == (["alerts"] if key in ("dagProcessor", "triggerer") else [])


def test_empty_lists_drop_nothing() -> None:
    empty: dict[str, Any] = {"env": [], "volumes": [], "volumeMounts": []}
    component = {"env": [], "extraVolumes": [], "extraVolumeMounts": []}
    values = {**empty, **{key: component for key in DEPLOYMENTS}}
    assert render_chart(values={"airflow": values}) == render_chart()


def test_a_variable_of_the_users_wins() -> None:
    own = [{"name": "TRAINYARD_PLATFORM", "value": "/mine.json"}, {"name": "HOME", "value": "/home/me"}]
    secret = {"secretKeyRef": {"name": "mine", "key": "uri"}}
    api_server = {"env": [{"name": CONNECTION, "valueFrom": secret}]}
    values = {"env": own, "extraEnv": "- {name: HOME, value: /srv}", "apiServer": api_server}
    pods = airflow_pods(render_chart(values={"airflow": values}))
    for name, pod in pods.items():
        check_names(pod)
        variables = environment(pod_spec(pod)["containers"][0])
        assert (variables["TRAINYARD_PLATFORM"], variables["HOME"]) == ("/mine.json", "/srv"), name
    server = pod_spec(pods["trainyard-api-server"])["containers"][0]
    assert environment(server)[CONNECTION] == secret


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"volumes": [{"name": "platform", "emptyDir": {}}]},
            r'airflow\.volumes: the volume "platform" is the chart\'s already; choose another one',
        ),
        (
            {"workers": {"extraVolumes": [{"name": "logs", "emptyDir": {}}]}},
            r'airflow\.workers\.extraVolumes: the volume "logs" is the chart\'s',
        ),
        (
            {"volumes": [CA], "triggerer": {"extraVolumes": [{**CA, "configMap": {"name": "other"}}]}},
            r'airflow\.triggerer\.extraVolumes: the volume "cluster-ca" is airflow\.volumes\'s',
        ),
        (
            {"scheduler": {"extraVolumeMounts": [{"name": "cluster-ca", "mountPath": "/tmp"}]}},
            r'airflow\.scheduler\.extraVolumeMounts: the mountPath "/tmp" is the chart\'s',
        ),
    ],
)
def test_a_volume_needs_a_name_and_a_path_of_its_own(values: Object, said: str) -> None:
    with pytest.raises(ChartError, match=said):
        render_chart(values={"airflow": values})


def test_the_airflow_chart_stands_alone() -> None:
    objects = render_chart(chart=CHART / "charts/airflow", values={"volumes": [CA]})
    triggerer = find(objects, "Deployment", "trainyard-triggerer")
    check_names(triggerer)
    volumes = {volume["name"] for volume in pod_spec(triggerer)["volumes"]}
    assert volumes == {"tmp", "logs", "config", "scripts", "cluster-ca"}
    assert containers(triggerer)[-1]["image"] == "apache/airflow:3.3.2"
    clash = {"volumes": [{"name": "config", "emptyDir": {}}]}
    with pytest.raises(ChartError, match=r'airflow\.volumes: the volume "config" is the chart\'s'):
        render_chart(chart=CHART / "charts/airflow", values=clash)
