"""What holds for every workload of every values file, whatever it is."""

from __future__ import annotations

import re

import pytest
from components import EVERY, HOST_PATH_ALLOWED, NO_PROBE_NEEDED, ROOT_ALLOWED, VARIANTS, Component
from kubernetes.utils.quantity import parse_quantity
from render import (
    CLUSTER_KINDS,
    POD_KINDS,
    Object,
    containers,
    find,
    identity,
    platform,
    pod_metadata,
    pod_spec,
    pods,
    render_chart,
    worker_pod,
)

STANDARD_LABELS = {
    f"app.kubernetes.io/{name}" for name in ("name", "instance", "component", "part-of", "managed-by")
}
IMAGE = re.compile(r"^[a-z0-9][a-z0-9._/:-]*(:[\w][\w.-]*|@sha256:[0-9a-f]{64})$")
RESOURCES = {"cpu", "memory", "ephemeral-storage"}

each_variant = pytest.mark.parametrize("files", VARIANTS, ids=lambda files: "+".join(files) or "defaults")
each_workload = pytest.mark.parametrize(
    ("files", "component"),
    EVERY,
    ids=[f"{'+'.join(files) or 'defaults'}-{component.name}" for files, component in EVERY],
)


@pytest.fixture
def workload(files: tuple[str, ...], component: Component) -> Object:
    return find(render_chart(files=files), component.kind, component.name)


@each_variant
def test_every_workload_is_registered(files: tuple[str, ...]) -> None:
    rendered = {identity(one) for one in render_chart(files=files) if one["kind"] in POD_KINDS}
    assert rendered == {component.identity for component in VARIANTS[files]}


@each_variant
def test_no_two_objects_are_the_same(files: tuple[str, ...]) -> None:
    names = [
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
        for one in render_chart(files=files)
    ]
    assert len(names) == len(set(names))


@each_variant
def test_every_object_says_its_namespace_and_standard_labels(files: tuple[str, ...]) -> None:
    for one in render_chart(files=files):
        if one["kind"] not in CLUSTER_KINDS:
            assert one["metadata"].get("namespace"), identity(one)
        assert set(one["metadata"]["labels"]) >= STANDARD_LABELS, identity(one)


@each_variant
def test_no_hooks(files: tuple[str, ...]) -> None:
    for one in render_chart(files=files):
        annotations = one["metadata"].get("annotations", {})
        assert not [key for key in annotations if "hook" in key], identity(one)


@each_variant
def test_no_secret_is_rendered(files: tuple[str, ...]) -> None:
    assert not [one for one in render_chart(files=files) if one["kind"] == "Secret"]


@each_variant
def test_services_and_budgets_select_a_workload(files: tuple[str, ...]) -> None:
    objects = render_chart(files=files)
    pods = [pod_metadata(one)["labels"] for one in objects if one["kind"] in POD_KINDS]
    for one in objects:
        selector = {
            "Service": one.get("spec", {}).get("selector"),
            "PodDisruptionBudget": (one.get("spec", {}).get("selector") or {}).get("matchLabels"),
        }.get(one["kind"])
        if selector:
            assert len([labels for labels in pods if selector.items() <= labels.items()]) == 1, identity(one)


@each_variant
def test_every_reference_is_to_something_rendered(files: tuple[str, ...]) -> None:
    objects = render_chart(files=files)
    known = {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects}
    for one in objects:
        if one["kind"] not in POD_KINDS:
            continue
        namespace, spec = one["metadata"]["namespace"], pod_spec(one)
        wanted = [("ServiceAccount", spec["serviceAccountName"])]
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                wanted.append(("ConfigMap", volume["configMap"]["name"]))
            if "persistentVolumeClaim" in volume:
                wanted.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        for kind, name in wanted:
            assert (kind, namespace, name) in known, f"{identity(one)} refers to {kind} {name}"


@each_workload
def test_namespace(workload: Object, component: Component) -> None:
    assert workload["metadata"]["namespace"] == component.namespace


@each_workload
def test_selectors_and_pod_labels_do_not_change_with_the_chart(workload: Object) -> None:
    labels = pod_metadata(workload)["labels"]
    selector = workload["spec"].get("selector", {}).get("matchLabels", {})
    assert selector.items() <= labels.items()
    for key in ("helm.sh/chart", "app.kubernetes.io/version"):
        assert key not in labels and key not in selector
    if workload["kind"] not in ("Job", "CronJob"):
        assert set(selector) == {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component")}


@each_workload
def test_token_only_where_it_is_needed(workload: Object, component: Component) -> None:
    assert pod_spec(workload)["automountServiceAccountToken"] is component.token


@each_workload
def test_pod_security_restricted(workload: Object, component: Component) -> None:
    check_pod_security(pod_spec(workload), containers(workload), component.namespace)


@each_variant
def test_worker_pod_security_restricted(files: tuple[str, ...]) -> None:
    pod = worker_pod(render_chart(files=files))
    check_pod_security(pod_spec(pod), containers(pod), "trainyard")


def check_pod_security(spec: Object, all_containers: list[Object], namespace: str) -> None:
    context = spec["securityContext"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    if namespace not in ROOT_ALLOWED:
        assert context["runAsNonRoot"] is True and context["runAsUser"] > 0 and context["runAsGroup"] > 0
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        assert not spec.get(key)
    for volume in spec.get("volumes", []):
        assert "hostPath" not in volume or namespace in HOST_PATH_ALLOWED, volume
    for container in all_containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, container["name"]


@each_workload
def test_resources(workload: Object) -> None:
    for container in containers(workload):
        for part in ("requests", "limits"):
            assert set(container["resources"][part]) == RESOURCES, container["name"]


@each_variant
def test_emptydirs_fit_into_ephemeral_storage(files: tuple[str, ...]) -> None:
    """The kubelet evicts a pod that has more in them, and in its logs, than its containers may together."""
    objects = render_chart(files=files)
    for one in pods(objects):
        limits = [part["resources"]["limits"]["ephemeral-storage"] for part in pod_spec(one)["containers"]]
        directories = [volume.get("emptyDir", {"medium": "Memory"}) for volume in pod_spec(one)["volumes"]]
        sizes = [one["sizeLimit"] for one in directories if one.get("medium") != "Memory"]
        assert sum(map(parse_quantity, sizes)) < sum(map(parse_quantity, limits)), identity(one)


@each_workload
def test_images(workload: Object, files: tuple[str, ...]) -> None:
    for container in containers(workload):
        assert IMAGE.match(container["image"]), container["image"]
        assert not container["image"].endswith(":latest")
        assert container["imagePullPolicy"] == ("IfNotPresent" if files == ("kind.yaml",) else "Always")


@each_workload
def test_long_running_pods_have_a_liveness_probe(workload: Object, component: Component) -> None:
    if workload["kind"] in ("Job", "CronJob") or component.name in NO_PROBE_NEEDED:
        return
    for container in pod_spec(workload)["containers"]:
        assert container["livenessProbe"]["periodSeconds"] >= 20, "a probe costs CPU"


@each_workload
def test_priority(workload: Object, component: Component) -> None:
    expected = "system-node-critical" if component.namespace in ROOT_ALLOWED else "trainyard-critical"
    assert pod_spec(workload)["priorityClassName"] == expected


@each_variant
def test_worker_pods_give_way_to_models_and_not_to_training(files: tuple[str, ...]) -> None:
    objects = render_chart(files=files)
    of_platform = platform(objects)
    classes = [
        of_platform["training"]["priorityClassName"],
        pod_spec(worker_pod(objects))["priorityClassName"],
        of_platform["serving"]["priorityClassName"],
    ]
    values = [find(objects, "PriorityClass", name)["value"] for name in classes]
    assert values == sorted(set(values)), classes


@each_workload
def test_emptydirs_are_bounded(workload: Object) -> None:
    for volume in pod_spec(workload).get("volumes", []):
        if "emptyDir" in volume:
            assert volume["emptyDir"].get("sizeLimit"), volume["name"]


@each_workload
def test_no_password_in_the_open(workload: Object) -> None:
    secret = re.compile(r"PASSWORD|SECRET_KEY|JWT_SECRET|FERNET|SQL_ALCHEMY_CONN(_ASYNC)?$|STORE_URI|LOGIN$")
    # User and password of a URL may be another variable.
    composed = re.compile(r"postgresql[+\w]*://\$\(\w+_LOGIN\)@\S+")
    for container in containers(workload):
        for variable in container.get("env", []):
            if secret.search(variable["name"]) and not composed.fullmatch(variable.get("value", "")):
                assert "secretKeyRef" in variable.get("valueFrom", {}), variable["name"]
