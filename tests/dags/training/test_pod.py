"""The training pod against the Kubernetes schema, Pod Security "restricted" and the trainer's own parser."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path

import kubernetes_validate
import pytest
import trainyard_contract
from trainyard.naming import TaskIdentity
from trainyard.platform import Platform, PlatformError, Team, Volume
from trainyard.training.attempt import Attempt
from trainyard.training.pod import RESULT_PATH, UNREACHABLE, RequestError, TrainingRequest, build_pod
from trainyard_cli.versions import VERSIONS

TRAINER = Path(__file__).parents[3] / "images/trainer/src"
TEAM = "trainyard.dev/team"
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@pytest.fixture
def pod(platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity) -> dict:
    return build_pod(platform, request_for_train, identity)


def test_it_is_valid(pod: dict) -> None:
    kubernetes_validate.validate(pod, VERSIONS.kubernetes_minor, strict=True)


def test_it_passes_pod_security_restricted(pod: dict) -> None:
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {next(iter(set(v) - {"name"})) for v in spec["volumes"]} == {
        "persistentVolumeClaim",
        "emptyDir",
        "secret",
    }
    assert spec["automountServiceAccountToken"] is False


def test_it_ends_some_time_and_leaves_its_result_to_the_kubelet(pod: dict) -> None:
    assert pod["spec"]["activeDeadlineSeconds"] == 7200
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["containers"][0]["terminationMessagePath"] == RESULT_PATH


def test_a_gpu_pod_goes_to_its_pool_and_a_cpu_pod_to_none(
    pod: dict, platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    assert pod["spec"]["nodeSelector"] == {"trainyard.dev/pool": "ondemand"}
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    spot = build_pod(platform, replace(request_for_train, gpu_pool="spot"), identity)["spec"]
    assert spot["priorityClassName"] == "trainyard-spot"
    assert {t["key"] for t in spot["tolerations"]} == {"nvidia.com/gpu", "trainyard.dev/spot", UNREACHABLE}
    cpu = build_pod(platform, replace(request_for_train, gpu_pool=None), identity)["spec"]
    assert "nodeSelector" not in cpu
    assert [toleration["key"] for toleration in cpu["tolerations"]] == [UNREACHABLE]
    assert "nvidia.com/gpu" not in cpu["containers"][0]["resources"]["limits"]


def test_a_team_is_named_by_its_pods(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    vision = replace(platform, teams={"vision": Team("vision", "ml-vision", (identity.dag_id,))})
    pod = build_pod(vision.for_dag(identity.dag_id), request_for_train, identity)
    assert (pod["metadata"]["namespace"], pod["metadata"]["labels"][TEAM]) == ("ml-vision", "vision")
    other = replace(identity, dag_id="other")
    pod = build_pod(vision.for_dag("other"), request_for_train, other)
    assert pod["metadata"]["namespace"] == "ml-training" and TEAM not in pod["metadata"]["labels"]


def test_an_experiment_is_one_of_the_team(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    teams = {name: Team(name, f"ml-{name}", (f"{name}_*",)) for name in ("vision", "text")}
    shared = replace(platform, teams=teams)

    def build(dag_id: str, experiment: str, platform: Platform = shared, **env_vars: str) -> list[dict]:
        env_vars["MLFLOW_EXPERIMENT_NAME"] = experiment
        request, task = replace(request_for_train, env_vars=env_vars), replace(identity, dag_id=dag_id)
        return build_pod(platform.for_dag(dag_id), request, task)["spec"]["containers"][0]["env"]

    for dag_id, experiment in (("vision_a", "vision_b"), ("a", "b")):
        assert {"name": "MLFLOW_EXPERIMENT_NAME", "value": experiment} in build(dag_id, experiment)
    for dag_id, experiment, said in (
        (
            "vision_a",
            "text_a",
            "'text_a', an experiment that is team text's, and DAG vision_a is of team vision",
        ),
        ("vision_a", "b", "an experiment that is no team's"),
        ("a", "text_a", "DAG a is of no team; leave it out"),
    ):
        with pytest.raises(RequestError, match=said):
            build(dag_id, experiment)
    # Where MLflow is another one, or asks for nothing.
    build("vision_a", "text_a", MLFLOW_TRACKING_URI="http://mlflow.example.com")
    pod = replace(platform.training.pod, extra_volumes=())
    build("vision_a", "text_a", replace(shared, training=replace(platform.training, pod=pod)))
    build("vision_a", "text_a", platform)


def test_how_long_to_wait_for_a_lost_node_can_be_given(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    patient = {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 900}
    pod = replace(platform.training.pod, tolerations=(patient,))
    other = replace(platform, training=replace(platform.training, pod=pod))
    cpu = build_pod(other, replace(request_for_train, gpu_pool=None), identity)["spec"]
    assert cpu["tolerations"] == [patient]


def test_nodes_with_a_broken_gpu_are_avoided_where_there_are_others(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    attempt = Attempt(3, "ondemand", avoided=("node-1", "node-2"))
    zone = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    own = replace(
        platform.pool("ondemand"),
        max_nodes=3,
        pod=replace(
            platform.pool("ondemand").pod,
            affinity={"nodeAffinity": {required: {"nodeSelectorTerms": [zone]}}},
        ),
    )
    avoid = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in ("node-1", "node-2")]
    pod = build_pod(replace(platform, pools={"ondemand": own}), request_for_train, identity, attempt)
    (term,) = pod["spec"]["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"]
    assert term == {**zone, "matchFields": avoid}
    small = replace(platform, pools={"ondemand": replace(own, max_nodes=2)})
    waits = build_pod(small, request_for_train, identity, attempt)["spec"]["affinity"]
    assert waits == own.pod.affinity, "there would be no node left"


@pytest.mark.parametrize(
    ("step", "read_only"),
    [("train", True), ("evaluate", True), ("preprocess", False), ("generate", False), ("predict", False)],
)
def test_training_cannot_write_datasets(
    platform: Platform,
    request_for_train: TrainingRequest,
    identity: TaskIdentity,
    step: str,
    read_only: bool,
) -> None:
    pod = build_pod(platform, replace(request_for_train, step=step), identity)
    mounts = {mount["name"]: mount for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounts["datasets"]["readOnly"] is read_only
    assert "readOnly" not in mounts["checkpoints"]


def test_the_environment_is_the_contracts_and_can_be_overridden(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    request = replace(request_for_train, env_vars={"CHECKPOINT_FREQ": "9"})
    container = build_pod(platform, request, identity, Attempt(2, "ondemand"))["spec"]["containers"][0]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert env["CHECKPOINT_FREQ"] == "9"
    assert env["CHECKPOINT_DIR"] == f"/checkpoints/{identity.run_key()}"
    assert env["TRAINYARD_ATTEMPT"] == "2"
    assert env["MLFLOW_EXPERIMENT_NAME"] == "digits_training"


def env_of(pod: dict) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in pod["spec"]["containers"][0]["env"]}


def test_run_keys_can_be_given(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    pod = build_pod(platform, replace(request_for_train, run_key="k", parent_run_key="p"), identity)
    assert pod["spec"]["containers"][0]["args"][2:4] == ["--run-key", "k"]
    env = env_of(pod)
    assert (env["CHECKPOINT_DIR"], env["TRAINYARD_PARENT_RUN_KEY"]) == ("/checkpoints/k", "p")
    assert env["TRAINYARD_GPU_POOL"] == "ondemand"


def test_an_attempt_changes_pool_memory_and_batch(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    request = replace(request_for_train, env_vars={"TRAINYARD_BATCH_DIVISOR": "1"})
    attempt = Attempt(3, "spot", memory_factor=2, batch_divisor=2)
    pod = build_pod(platform, request, identity, attempt)
    resources = pod["spec"]["containers"][0]["resources"]
    assert (resources["limits"]["memory"], resources["requests"]["memory"]) == ("4Gi", "1024Mi")
    assert pod["spec"]["nodeSelector"] == {"trainyard.dev/pool": "spot"}
    assert env_of(pod)["TRAINYARD_BATCH_DIVISOR"] == "2"
    assert Attempt.of_pod(pod) == attempt


@pytest.mark.parametrize(("limit", "expected"), [("200Mi", "200Mi"), ("1Gi", "512Mi"), ("100M", "100M")])
def test_a_low_limit_lowers_the_request(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity, limit: str, expected: str
) -> None:
    request = replace(request_for_train, container_resources={"limits": {"memory": limit}})
    resources = build_pod(platform, request, identity)["spec"]["containers"][0]["resources"]
    assert resources["requests"]["memory"] == expected


def test_a_fallback_is_a_cpu_pod_that_says_so(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    pod = build_pod(platform, request_for_train, identity, Attempt(1, "ondemand").on_cpu())
    assert "nodeSelector" not in pod["spec"]
    assert "nvidia.com/gpu" not in pod["spec"]["containers"][0]["resources"]["limits"]
    env = env_of(pod)
    assert (env["TRAINYARD_DEVICE"], env["TRAINYARD_FALLBACK"]) == ("cpu", "cpu")
    assert env["TRAINYARD_BATCH_DIVISOR"] == "2"


def test_each_gpu_of_a_pod_gets_a_process_in_training_alone(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    pool = replace(platform.pool("ondemand"), gpus_per_node=4)
    large = replace(platform, pools={"ondemand": pool})
    training = replace(request_for_train, gpus=4)
    env = env_of(build_pod(large, training, identity))
    assert (env["WORLD_SIZE"], env["LOCAL_WORLD_SIZE"], env["MASTER_ADDR"]) == ("4", "4", "127.0.0.1")
    for request in (request_for_train, replace(training, step="evaluate")):
        assert "WORLD_SIZE" not in env_of(build_pod(large, request, identity))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"nodes": 0}, "nodes is 0"),
        ({"nodes": "2"}, "nodes is '2'"),
        ({"gpus": True}, "gpus is True"),
        ({"nodes": 2, "step": "evaluate"}, "evaluate runs on one node"),
    ],
)
def test_numbers_of_nodes_and_gpus_are_checked(
    request_for_train: TrainingRequest, changes: dict, named: str
) -> None:
    with pytest.raises(RequestError, match=named):
        replace(request_for_train, **changes)


def test_the_trainer_parses_the_arguments(
    pod: dict, request_for_train: TrainingRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TRAINER))
    arguments = importlib.import_module("trainyard_trainer.arguments")
    program, *rest = pod["spec"]["containers"][0]["args"]
    parsed = arguments.parse(rest)
    assert (program, parsed.step) == (trainyard_contract.COMMAND, "train")
    assert (parsed.dataset, parsed.output) == (request_for_train.dataset, request_for_train.output_uri)
    assert parsed.resume_if_exists


@pytest.mark.parametrize("step", trainyard_contract.STEPS)
def test_the_library_knows_the_steps_of_the_trainer(request_for_train: TrainingRequest, step: str) -> None:
    assert replace(request_for_train, step=step).step == step
    assert (TRAINER / f"trainyard_trainer/steps/{step}.py").is_file()


def test_the_trainer_knows_the_parameters_of_digits_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAINER))
    params = importlib.import_module("trainyard_trainer.params")
    dag = importlib.import_module("digits_training").dag
    passed = {name for task in dag.tasks for name in getattr(task, "step_params", {})}
    # The model's own: tests/trainer/test_digits.py checks it, where numpy is installed.
    assert passed - params.COMMON.keys() == {"dropout"}
    # The defaults of both are the same, so that a bare `trainer train` does what the DAG does.
    shared = set(dag.params) & set(params.COMMON)
    assert {name: dag.params[name] for name in shared} == {
        name: params.COMMON[name].default for name in shared
    }


HARD = [
    TaskIdentity("d" * 200, "r/" * 90, "task.group.train", 7, 12),
    TaskIdentity("-Überwachung_", "manual__2026-11-21T07:00:00+00:00", "_t_", -1, 1),
    TaskIdentity("a", "b", "c", 0, 1),
]


@pytest.mark.parametrize("task", HARD)
def test_hard_names_become_valid_ones(
    platform: Platform, request_for_train: TrainingRequest, task: TaskIdentity
) -> None:
    pod = build_pod(platform, request_for_train, task, Attempt(3))
    assert NAME.fullmatch(pod["metadata"]["name"])
    assert all(LABEL.fullmatch(value) for value in pod["metadata"]["labels"].values())
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,150}", task.run_key())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "deploy"}, "step is 'deploy'"),
        ({"dataset": None}, "dataset must be a URI"),
        ({"output_uri": "/tmp/x"}, "output_uri must be a URI"),
        ({"step_params": "[]"}, "step_params must be an object"),
        ({"run_key": "a/b"}, "run_key is 'a/b'"),
        ({"container_resources": {"limits": {"memory": "much"}}}, "'much' is no quantity"),
        ({"gpus": 2}, "gpus=2: a node of pool ondemand has 1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity, change: dict, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        build_pod(platform, replace(request_for_train, **change), identity)


def test_an_unknown_pool_is_refused(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    with pytest.raises(PlatformError, match=r"no GPU pool 'tpu' .*ondemand, spot"):
        build_pod(platform, replace(request_for_train, gpu_pool="tpu"), identity)


def test_further_volumes_are_mounted_to_be_written(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    more = {"Pre-trained models": Volume("pretrained", "/models"), "cache": Volume("cache", "/cache")}
    training = replace(platform.training, more_volumes=more)
    pod = build_pod(replace(platform, training=training), request_for_train, identity)
    kubernetes_validate.validate(pod, VERSIONS.kubernetes_minor, strict=True)
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    mounted = {
        claims[mount["name"]]: mount["mountPath"]
        for mount in pod["spec"]["containers"][0]["volumeMounts"]
        if mount["name"] in claims and not mount.get("readOnly")
    }
    assert mounted == {"checkpoints": "/checkpoints", "pretrained": "/models", "cache": "/cache"}


def test_what_is_in_an_object_store_is_not_mounted(
    platform: Platform, request_for_train: TrainingRequest, identity: TaskIdentity
) -> None:
    training = replace(platform.training, checkpoints=Volume(object_uri="s3://training/checkpoints"))
    pod = build_pod(replace(platform, training=training), request_for_train, identity)
    kubernetes_validate.validate(pod, VERSIONS.kubernetes_minor, strict=True)
    assert "checkpoints" not in {volume["name"] for volume in pod["spec"]["volumes"]}
    mounts = pod["spec"]["containers"][0]["volumeMounts"]
    assert {mount["mountPath"] for mount in mounts} == {"/data", "/tmp", "/tmp/.mlflow", "/dev/shm"}
    assert env_of(pod)["CHECKPOINT_DIR"] == f"s3://training/checkpoints/{identity.run_key()}"
