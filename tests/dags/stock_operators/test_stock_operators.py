"""DAGs with Airflow's own Kubernetes operators, as public examples have them: what their pods are here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.cncf.kubernetes.operators.job import KubernetesJobOperator
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s
from trainyard.platform import PlatformError
from trainyard.stock_operators.arguments import gpu_arguments
from trainyard.stock_operators.pods import complete
from trainyard.stock_operators.tasks import prepare

PLATFORM_FILE = Path(__file__).parents[1] / "platform.json"
SETTINGS = {"namespace": "ml-jobs", "serviceAccountName": "job", "launcher": "trainyard-pod-launcher"}
GPU = "nvidia.com/gpu"
ONE_GPU = k8s.V1ResourceRequirements(limits={GPU: "1"})
# The policy `restricted` of Pod Security, for a container and its pod.
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.fixture(autouse=True)
def switched_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = {**json.loads(PLATFORM_FILE.read_text()), "stockOperators": SETTINGS}
    (tmp_path / "platform.json").write_text(json.dumps(platform))
    monkeypatch.setenv("TRAINYARD_PLATFORM", str(tmp_path / "platform.json"))


def made_by(
    operator: type[KubernetesPodOperator] = KubernetesPodOperator, **arguments: Any
) -> dict[str, Any]:
    """The pod of a task as it goes to the API server, built by the real operator."""
    with DAG("d", schedule=None):
        task = operator(task_id="train", image="pytorch/pytorch:2.6", **arguments)
    prepare(task)
    pod = task.build_pod_request_obj(dry_run=True)
    pod.metadata.labels["airflow_kpo_in_cluster"] = "True"  # a dry run leaves it out
    complete(pod)
    found: dict[str, Any] = ApiClient().sanitize_for_serialization(pod)
    return found


@pytest.mark.parametrize("namespace", [None, "default"])
def test_a_pod_that_says_nothing_passes_the_level_restricted(namespace: str | None) -> None:
    pod = made_by(namespace=namespace, do_xcom_push=True, cmds=["python", "-c", "print(1)"])
    assert pod["metadata"]["namespace"] == "ml-jobs"
    spec = pod["spec"]
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("job", False)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert [container["securityContext"] for container in spec["containers"]] == [RESTRICTED] * 2
    assert spec["priorityClassName"] == "trainyard-training"
    assert not spec.get("nodeSelector") and not spec.get("tolerations"), "it wants no GPU"
    assert "volumes" not in spec or [each["name"] for each in spec["volumes"]] == ["xcom"]


def test_the_sidecar_is_an_image_that_is_there() -> None:
    base, sidecar = made_by(do_xcom_push=True)["spec"]["containers"]
    assert base["image"] == "pytorch/pytorch:2.6"
    assert (sidecar["name"], sidecar["image"]) == ("airflow-xcom-sidecar", "trainyard/trainer:0.1.0")


@pytest.mark.parametrize(
    "tolerations",
    [
        None,
        [k8s.V1Toleration(key=GPU, operator="Exists", effect="NoSchedule")],
        [k8s.V1Toleration(key=GPU, operator="Equal", value="true", effect="NoSchedule")],
    ],
    ids=["none", "Exists", "true"],
)
def test_a_pod_with_a_gpu_gets_onto_a_node_that_has_one(
    tolerations: list[k8s.V1Toleration] | None, platform: Any
) -> None:
    spec = made_by(container_resources=ONE_GPU, tolerations=tolerations)["spec"]
    pool = platform.pool(platform.default_pool)
    assert spec["nodeSelector"] == pool.node_selector
    assert all(dict(each) in spec["tolerations"] for each in pool.tolerations)
    assert len(spec["tolerations"]) == len(pool.tolerations) + len(tolerations or [])
    (shm,) = (each for each in spec["containers"][0]["volumeMounts"] if each["mountPath"] == "/dev/shm")
    (volume,) = (each for each in spec["volumes"] if each["name"] == shm["name"])
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


def test_a_pod_that_chose_a_pool_gets_what_that_has(platform: Any) -> None:
    spec = made_by(container_resources=ONE_GPU, node_selector=platform.pool("spot").node_selector)["spec"]
    assert spec["tolerations"] == [dict(each) for each in platform.pool("spot").tolerations]
    assert spec["priorityClassName"] == "trainyard-spot"


def test_a_pod_that_chose_nodes_of_its_own_may_stand_on_those_of_all_pools(platform: Any) -> None:
    spec = made_by(container_resources=ONE_GPU, node_selector={"gpu": "a100"})["spec"]
    assert spec["nodeSelector"] == {"gpu": "a100"}
    every = [dict(each) for pool in platform.pools.values() for each in pool.tolerations]
    assert all(each in spec["tolerations"] for each in every)


def test_what_an_author_has_said_stays() -> None:
    spec = made_by(
        container_resources={"limits": {GPU: "1"}},
        security_context={"runAsUser": 7},
        container_security_context=k8s.V1SecurityContext(run_as_user=8, read_only_root_filesystem=True),
        service_account_name="mine",
        automount_service_account_token=True,
        priority_class_name="high",
        volumes=[k8s.V1Volume(name="shm", empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory"))],
        volume_mounts=[k8s.V1VolumeMount(name="shm", mount_path="/dev/shm")],
    )["spec"]
    assert spec["securityContext"]["runAsUser"] == 7 and spec["securityContext"]["runAsNonRoot"] is True
    assert spec["containers"][0]["securityContext"] == {
        **RESTRICTED,
        "runAsUser": 8,
        "readOnlyRootFilesystem": True,
    }
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("mine", True)
    assert spec["priorityClassName"] == "high"
    assert [each["name"] for each in spec["volumes"]] == ["shm"]


def test_a_pod_of_another_namespace_is_the_authors_own() -> None:
    pod = made_by(namespace="theirs", container_resources=ONE_GPU)
    assert pod["metadata"]["namespace"] == "theirs"
    assert "tolerations" not in pod["spec"] or not pod["spec"]["tolerations"]
    assert "serviceAccountName" not in pod["spec"]


def test_a_job_goes_to_the_same_namespace() -> None:
    with DAG("d", schedule=None):
        task = KubernetesJobOperator(task_id="train", image="x", backoff_limit=0)
    prepare(task)
    assert task.namespace == "ml-jobs"
    assert made_by(KubernetesJobOperator)["spec"]["securityContext"]["runAsNonRoot"] is True


def test_a_helper_names_the_pool(platform: Any) -> None:
    spec = made_by(**gpu_arguments("spot"))["spec"]
    pool = platform.pool("spot")
    assert spec["nodeSelector"] == pool.node_selector
    assert spec["tolerations"] == [dict(each) for each in pool.tolerations]
    assert spec["containers"][0]["resources"]["limits"] == {GPU: "1"}
    with pytest.raises(ValueError, match="gpus=2: a node of pool ondemand has 1"):
        gpu_arguments(gpus=2)
    with pytest.raises(PlatformError, match="no GPU pool 'h100'"):
        gpu_arguments("h100")


def launchers_of(task: Any) -> tuple[str | None, bool | None]:
    spec = task.executor_config["pod_override"].spec
    return spec.service_account_name, spec.automount_service_account_token


FILE = """
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.operators.job import KubernetesJobOperator
from airflow.sdk import DAG, task
from kubernetes.client import models as k8s

with DAG("public", schedule=None):
    KubernetesPodOperator(task_id="pod", image="x")
    KubernetesJobOperator(task_id="job", image="x", namespace="default")
    KubernetesPodOperator.partial(task_id="mapped", image="x").expand(arguments=[["1"], ["2"]])

    @task.kubernetes(image="python:3.11", namespace="default")
    def decorated():
        return 1

    @task
    def plain():
        return 1

    base = [k8s.V1Container(name="base")]
    own = k8s.V1Pod(spec=k8s.V1PodSpec(service_account_name="mine", containers=base))
    KubernetesPodOperator(task_id="own", image="x", executor_config={"pod_override": own})
    decorated() >> plain()
"""


def test_only_their_worker_pods_may_launch_pods(tmp_path: Path) -> None:
    """By the cluster policy, in Airflow's own reader of DAG files; and so it is stored."""
    (tmp_path / "public.py").write_text(FILE)
    bag = DagBag(str(tmp_path))
    assert bag.import_errors == {}
    dag = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags["public"]))
    for name in ("pod", "job", "mapped", "decorated"):
        assert launchers_of(dag.get_task(name)) == ("trainyard-pod-launcher", True), name
    assert not dag.get_task("plain").executor_config
    assert launchers_of(dag.get_task("own")) == ("mine", None)
    read = bag.dags["public"]
    namespaces = {name: read.get_task(name).namespace for name in ("pod", "job", "decorated")}
    assert set(namespaces.values()) == {"ml-jobs"}
    assert read.get_task("mapped").partial_kwargs["namespace"] == "ml-jobs"


@pytest.mark.parametrize("file", ["without", "none"])
def test_switched_off_nothing_changes(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_PLATFORM", str(PLATFORM_FILE if file == "without" else "/nowhere"))
    pod = made_by(container_resources=ONE_GPU, namespace="ml-jobs")
    assert "serviceAccountName" not in pod["spec"] and "priorityClassName" not in pod["spec"]
