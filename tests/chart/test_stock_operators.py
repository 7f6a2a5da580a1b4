"""Where Airflow's own Kubernetes operators launch pods: a namespace of its own, and who may do it there."""

from __future__ import annotations

import json
from pathlib import Path

from made import made_at_run_time
from network import End, Network, pod, policies, workloads
from render import Object, find, render_chart
from rights import RIGHTS
from test_admission import WORKERS, policy
from test_network import KUBERNETES
from test_rights import QUEUES, rights

ON: Object = {"stockOperators": {"enabled": True}}
LAUNCHER = "trainyard-stock-operators"
MAY = {
    "events": ["get", "list", "watch"],
    "jobs.batch": ["create", "delete", "get", "list", "patch", "watch"],
    "jobs/status.batch": ["get"],
    "pods": ["create", "delete", "get", "list", "patch", "watch"],
    "pods/exec": ["create", "get"],
    "pods/log": ["get"],
}


def platform_of(objects: list[Object]) -> Object:
    found, *_ = (one["data"] for one in objects if "platform.json" in one.get("data", {}))
    platform: Object = json.loads(found["platform.json"])
    return platform


def test_the_launcher_and_the_triggerer_may_use_the_namespace_and_nobody_else_gets_more() -> None:
    found = rights(render_chart(values={**ON, **QUEUES}))
    assert found.pop(f"trainyard/{LAUNCHER}") == {"ml-jobs": MAY}
    assert found.pop("ml-jobs/job") == {}
    triggerer = found["trainyard/trainyard-triggerer"]
    assert triggerer.pop("ml-jobs") == MAY
    assert found == RIGHTS


def test_the_namespace_is_closed_and_bounded() -> None:
    objects = render_chart(values=ON)
    labels = find(objects, "Namespace", "ml-jobs")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    (quota,) = (one for one in objects if one["kind"] == "ResourceQuota" and named(one))
    assert quota["spec"]["hard"] == {"pods": "100"}
    assert [one for one in objects if one["kind"] == "LimitRange" and named(one)]
    assert not [one for one in objects if one["kind"] == "Secret" and named(one)]


def named(one: Object) -> bool:
    return bool(one["metadata"].get("namespace") == "ml-jobs")


def test_it_is_off_by_default() -> None:
    assert not [one for one in render_chart() if named(one) or one["metadata"]["name"] == LAUNCHER]
    assert "stockOperators" not in platform_of(render_chart())


def test_the_library_knows_the_place_and_the_launcher() -> None:
    values = {"stockOperators": {"enabled": True, "namespace": "pods", "serviceAccountName": "mine"}}
    objects = render_chart(values=values, release="blue")
    assert platform_of(objects)["stockOperators"] == {
        "namespace": "pods",
        "serviceAccountName": "mine",
        "launcher": "blue-stock-operators",
    }
    assert find(objects, "ServiceAccount", "blue-stock-operators")
    (role,) = (one for one in objects if one["kind"] == "Role" and one["metadata"]["namespace"] == "pods")
    assert role


def test_a_worker_pod_may_run_as_the_launcher_where_there_is_one() -> None:
    assert LAUNCHER in policy(WORKERS, ON)
    assert LAUNCHER not in policy(WORKERS)


def test_a_worker_reaches_the_kubernetes_api(tmp_path: Path) -> None:
    for values, reaches in (({}, False), (ON, True)):
        objects = render_chart(values=values)
        network = Network(policies(objects))
        worker = pod("worker", "10.244.1.1", made_at_run_time(objects, tmp_path)["worker"])
        server, port = KUBERNETES[-1]  # its Service has the port of the web
        assert network.allows(worker, server, port) is reaches


def test_a_pod_there_reaches_mlflow_and_nobody_reaches_it(tmp_path: Path) -> None:
    objects = render_chart(values=ON)
    network, ends = Network(policies(objects)), workloads(objects)
    launched = End("launched", "10.244.1.9", "ml-jobs")
    assert network.allows(launched, ends["trainyard-mlflow"], 5000)
    assert not network.allows(launched, ends["trainyard-postgresql"], 5432)
    assert not network.allows(ends["trainyard-mlflow"], launched, 8080)


def test_an_airflow_from_elsewhere_launches_with_its_own_accounts() -> None:
    external = {"namespace": "airflow", "serviceAccounts": ["airflow-triggerer", "airflow-worker"]}
    objects = render_chart(values={**ON, "airflow": {"enabled": False}, "externalAirflow": external})
    assert platform_of(objects)["stockOperators"]["launcher"] == ""
    (binding,) = (one for one in objects if one["kind"] == "RoleBinding" and named(one))
    assert {each["name"] for each in binding["subjects"]} == set(external["serviceAccounts"])
