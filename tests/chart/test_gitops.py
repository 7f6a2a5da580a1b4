"""The manifests for Argo CD allow what the chart renders and nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from leaves import ON
from render import CLUSTER_KINDS, HELM, ROOT, find, identity, render_chart
from trainyard_cli import applications, chart, environments, gitops
from trainyard_cli.chart import merge
from trainyard_cli.environments import Environment
from trainyard_cli.errors import CliError
from trainyard_cli.git import Repository
from trainyard_cli.images import IMAGES
from trainyard_cli.objects import Identity
from trainyard_cli.rendering import Renderer

# A second release needs a project of its own.
VALUES_FILES = sorted({file.name for file in (ROOT / "values").glob("*.yaml")} - {"second-release.yaml"})


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    found = [yaml.safe_load(file.read_text()) for file in sorted(gitops.PLATFORM.glob("*.yaml"))]
    return {manifest["kind"]: manifest for manifest in found}


# What is off in all of them.
MORE_KINDS = {
    "karpenter": {"enabled": True},
    "queues": {"kueue": {"enabled": True}},
    "gpuPoolLists": {"cheapest": {"pools": ["spot", "ondemand"]}},
    "airflow": {
        "apiServer": {"hpa": {"enabled": True}},
        "extraSecrets": {"a": {"stringData": {"k": "v"}}},
        "extraConfigMaps": {"a": {"data": {"k": "v"}}},
    },
}


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    renders = [render_chart(files=(file,)) for file in VALUES_FILES]
    return [one for objects in [*renders, render_chart(values=merge(ON, MORE_KINDS))] for one in objects]


def kind_of(one: dict[str, Any]) -> tuple[str, str]:
    group = one["apiVersion"].rpartition("/")[0]
    return group, one["kind"]


def allowed(project: dict[str, Any], key: str) -> set[tuple[str, str]]:
    return {(each["group"], each["kind"]) for each in project["spec"][key]}


def test_the_project_allows_exactly_the_kinds_that_the_chart_renders(manifests, rendered) -> None:
    project = manifests["AppProject"]
    kinds = {kind_of(one) for one in rendered}
    of_cluster = {each for each in kinds if each[1] in {*CLUSTER_KINDS, "NodePool"}}
    assert allowed(project, "clusterResourceWhitelist") == of_cluster
    assert allowed(project, "namespaceResourceWhitelist") == kinds - of_cluster


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> list[tuple[Environment, list[dict[str, Any]]]]:
    """The environments and their objects, with the chart of the working tree, as after the next promotion."""
    repository, scratch = Repository(ROOT), tmp_path_factory.mktemp("rendered")
    tree = repository.tree(None)
    renderer = Renderer(Path(HELM), repository, scratch)
    read = (environments.read(repository, tree, name) for name in environments.names(tree))
    found = [dataclasses.replace(each, revision="main") for each in read]
    return [(each, renderer.objects(each, tree)) for each in found]


def test_the_project_allows_exactly_where_the_environments_and_kind_deploy_to(
    manifests, rendered, shipped
) -> None:
    assert len(shipped) >= 3
    deployed = [(applications.IN_CLUSTER, one) for one in rendered]
    deployed += [(environment.server, one) for environment, objects in shipped for one in objects]
    places = {(server, one["metadata"].get("namespace")) for server, one in deployed}
    places |= {(environment.server, environment.namespace) for environment, _ in shipped}
    destinations = manifests["AppProject"]["spec"]["destinations"]
    assert {(each["server"], each["namespace"]) for each in destinations} == {
        (server, namespace) for server, namespace in places if namespace
    }


def test_the_project_allows_exactly_the_repository_that_is_read(manifests) -> None:
    read = re.findall(r'"repoURL": "([^"]+)"', json.dumps(manifests["ApplicationSet"]))
    assert len(read) == 3
    assert set(read) == set(manifests["AppProject"]["spec"]["sourceRepos"])


def test_the_controller_on_kind_may_write_what_the_project_allows_and_no_secret(manifests) -> None:
    objects = yaml.safe_load_all((ROOT / "manifests/kind/argocd/rights.yaml").read_text())
    (role,) = (one for one in objects if one["kind"] == "ClusterRole")
    writable = {
        (group, resource)
        for rule in role["rules"]
        if "create" in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    project = manifests["AppProject"]
    kinds = allowed(project, "clusterResourceWhitelist") | allowed(project, "namespaceResourceWhitelist")
    others = {("", "Secret"), ("karpenter.sh", "NodePool"), ("gateway.networking.k8s.io", "HTTPRoute")}
    assert writable == {(group, plural(kind)) for group, kind in kinds - others}
    assert "secrets" not in {resource for rule in role["rules"] for resource in rule["resources"]}


def plural(kind: str) -> str:
    name = kind.lower()
    if name.endswith("y"):
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith("s") else f"{name}s"


def test_on_kind_the_same_manifests_name_the_git_server_and_one_environment() -> None:
    text = json.dumps(gitops.platform_manifests(gitops.URL, "kind"))
    example = json.dumps([yaml.safe_load(file.read_text()) for file in gitops.PLATFORM.glob("*.yaml")])
    assert "example.com" not in text
    assert text.count(gitops.URL) == example.count("https://git.example.com/team/trainyard.git")
    assert "values/environments/kind/environment.yaml" in text
    assert "environments/*" not in text
    servers = [each["server"] for one in json.loads(text) for each in one["spec"].get("destinations", [])]
    assert set(servers) == {applications.IN_CLUSTER}


def test_nothing_is_deleted_with_its_application(manifests) -> None:
    spec = manifests["ApplicationSet"]["spec"]
    assert spec["syncPolicy"]["preserveResourcesOnDeletion"] is True
    assert "finalizers" not in spec["template"]["metadata"]


def test_the_namespace_is_as_restricted_as_where_helm_installs(manifests) -> None:
    policy = manifests["ApplicationSet"]["spec"]["template"]["spec"]["syncPolicy"]
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    assert policy["managedNamespaceMetadata"]["labels"] == labels


def test_every_change_that_a_user_makes_is_marked() -> None:
    for file in gitops.PLATFORM.glob("*.yaml"):
        lines = file.read_text().splitlines()
        marked = [line for line in lines if "example.com" in line]
        assert marked
        assert all(line.endswith("# CHANGE") for line in marked)


@pytest.mark.parametrize("file", VALUES_FILES)
def test_claim_templates_say_what_they_are(file: str) -> None:
    """Else Argo CD with ServerSideApply compares them with what the API server adds, and never is Synced."""
    for one in render_chart(files=(file,)):
        for template in one["spec"].get("volumeClaimTemplates", []) if one["kind"] == "StatefulSet" else ():
            assert (template["apiVersion"], template["kind"]) == ("v1", "PersistentVolumeClaim")


def test_what_holds_data_stays_when_the_platform_is_deleted_with_its_application() -> None:
    objects = render_chart(files=("kind.yaml",))
    for one in objects:
        kept = one["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-options", "")
        if one["kind"] == "PersistentVolumeClaim":
            assert {"Prune=false", "Delete=false"} <= set(kept.split(",")), identity(one)
    assert find(objects, "PersistentVolumeClaim", "datasets")


def test_a_hand_over_renders_the_commit_and_an_error_names_the_files_that_people_edit(tmp_path) -> None:
    root = Repository(ROOT).tree("HEAD").extract(chart.SOURCES, tmp_path)
    file = root / chart.KIND_VALUES_PATH
    noted = {"mlflow": {"podAnnotations": {"of": "the-commit"}}}
    values = chart.merge(yaml.safe_load(file.read_text()), noted)
    file.write_text(yaml.safe_dump(values))
    assert "of: the-commit" in chart.helm(Path(HELM), "template", [], root=root)
    own = tmp_path / "own.yaml"
    own.write_text("mlflow: {podAnotations: {}}\n")
    with pytest.raises(CliError) as refused:
        chart.helm(Path(HELM), "template", [own], root=root)
    assert "podAnotations" in refused.value.message
    assert refused.value.cure == f"correct {chart.KIND_VALUES} or {own}, then run the command again"


MORE = {"size": "1Gi", "mountPath": "/more", "claimName": "more"}


def test_a_hand_back_deletes_what_helm_does_not_want_but_no_data() -> None:
    last = render_chart(files=("kind.yaml",), values={"training": {"volumes": {"more": MORE}}})
    more_room = {"scriptJobs": {"resources": {"limits": {"memory": "300Mi"}}}}
    wanted = render_chart(
        files=("kind.yaml",), values={**more_room, "nvidia-device-plugin": {"enabled": False}}
    )
    kept = {Identity.of(one) for one in wanted}
    replaced = {one["metadata"]["name"] for one in wanted if one["kind"] != "NetworkPolicy"}
    gone = [one for one in last if one["metadata"]["name"] not in replaced and Identity.of(one) not in kept]
    assert {"DaemonSet", "Job", "Namespace", "PersistentVolumeClaim"} <= {one["kind"] for one in gone}
    found = gitops.left_over(map(Identity.of, last), map(Identity.of, wanted))
    holds_data = ("Namespace", "PersistentVolumeClaim")
    assert set(found) == {Identity.of(one) for one in gone if one["kind"] not in holds_data}


@pytest.mark.parametrize(
    ("annotations", "kept"),
    [
        ({}, False),
        ({"helm.sh/resource-policy": "keep"}, True),
        ({"argocd.argoproj.io/sync-options": "Delete=false, Prune=false"}, True),
        ({"argocd.argoproj.io/sync-options": "Delete=false"}, False),
    ],
)
def test_a_hand_back_keeps_what_says_so(annotations: dict[str, str], kept: bool) -> None:
    assert gitops.is_kept({"metadata": {"annotations": annotations}}) is kept
    assert not gitops.is_kept({"metadata": {"name": "without-annotations"}})


def test_servers_on_kind_take_the_built_images_and_are_restricted() -> None:
    images = {name: f"trainyard/{name}:tag" for name in IMAGES}
    servers = list(gitops.server_manifests(images))
    for one in servers:
        pods = one["spec"]["template"]["spec"] if one["kind"] in ("Deployment", "StatefulSet") else None
        for container in pods["containers"] if pods else ():
            assert container["image"].endswith(":tag")
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= set(container["resources"])
    namespaces = [one for one in servers if one["kind"] == "Namespace"]
    enforced = {one["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] for one in namespaces}
    assert enforced == {"restricted"}


def test_no_file_is_left_over() -> None:
    assert {file.name for file in Path(gitops.PLATFORM).iterdir()} == {"project.yaml", "applicationset.yaml"}
