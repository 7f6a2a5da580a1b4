"""The serving namespace: closed, bounded, and open to the triggerer alone."""

from __future__ import annotations

import pytest
from render import find, identity, platform, render_chart


def test_the_namespace_is_restricted() -> None:
    labels = find(render_chart(), "Namespace", "ml-serving")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_what_model_servers_need_outlives_the_release() -> None:
    objects = render_chart(values={"serving": {"priorityClassName": "trainyard-training"}})
    needed = [
        ("Namespace", "ml-serving"),
        ("ServiceAccount", "model-server"),
        ("PriorityClass", "trainyard-training"),
    ]
    for kind, name in needed:
        annotations = find(objects, kind, name)["metadata"]["annotations"]
        assert annotations["helm.sh/resource-policy"] == "keep"
        assert annotations["argocd.argoproj.io/sync-options"] == "Prune=false,Delete=false"
    assert "annotations" not in find(objects, "PriorityClass", "trainyard-serving")["metadata"]


def test_it_is_open_to_the_triggerer_alone() -> None:
    objects = render_chart()
    (subject,) = find(objects, "RoleBinding", "trainyard-model-deployer")["subjects"]
    triggerer = find(objects, "Deployment", "trainyard-triggerer")["spec"]["template"]["spec"]
    assert (subject["name"], subject["namespace"]) == (triggerer["serviceAccountName"], "trainyard")


def test_dags_are_told_where_models_are_served() -> None:
    values = {"serving": {"namespace": "models", "port": 9000, "replicas": 3}}
    told = platform(render_chart(values=values))["serving"]
    assert (told["namespace"], told["port"], told["replicas"]) == ("models", 9000, 3)
    assert set(told["resources"]) == {"requests", "limits"}


def test_quota_and_limits_follow_the_values() -> None:
    objects = render_chart(values={"serving": {"quota": {"pods": 7, "limits.memory": "8Gi"}}})
    quota = find(objects, "ResourceQuota", "trainyard-serving")
    assert quota["spec"]["hard"] == {"pods": "7", "limits.memory": "8Gi"}
    assert find(objects, "LimitRange", "trainyard-serving")["metadata"]["namespace"] == "ml-serving"


@pytest.mark.parametrize("files", [(), ("kind.yaml",), ("production.yaml",)])
def test_switched_off_it_leaves_nothing(files: tuple[str, ...]) -> None:
    objects = render_chart(files=files, values={"serving": {"enabled": False}})
    assert "serving" not in platform(objects)
    assert not [one for one in objects if one["metadata"].get("namespace") == "ml-serving"]
    assert ("Namespace", "ml-serving") not in {identity(one) for one in objects}


def test_a_namespace_that_is_there_already_is_not_made() -> None:
    objects = render_chart(values={"serving": {"createNamespace": False}})
    assert ("Namespace", "ml-serving") not in {identity(one) for one in objects}
    assert find(objects, "ServiceAccount", "model-server")["metadata"]["namespace"] == "ml-serving"
