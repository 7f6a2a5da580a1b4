"""The manifest of a training pod: a pure function of the platform and a task's request."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trainyard_contract import (
    COMMAND,
    DATASET_FLAG,
    OUTPUT_FLAG,
    PARAMS_FLAG,
    RESULT_PATH,
    RESUME_FLAG,
    RUN_KEY,
    RUN_KEY_FLAG,
    RUN_KEY_RULE,
    STEPS,
    STEPS_THAT_WRITE_DATASETS,
    Env,
)

from trainyard.naming import ATTEMPT, CONTAINER, LABEL_PREFIX, TaskIdentity
from trainyard.platform import GpuPool, Platform, Training, Volume
from trainyard.pod_settings import PodSettings
from trainyard.training import job
from trainyard.training.attempt import ANNOTATION, Attempt
from trainyard.training.outcomes import UNREACHABLE_SECONDS

_DATASETS = "datasets"
UNREACHABLE = "node.kubernetes.io/unreachable"
LOGIN_VOLUME = "mlflow-login"  # of the chart, where pods log in to its own MLflow
GRACE_SECONDS = 60  # to write a checkpoint after SIGTERM
_UNITS = {"": 1.0, "m": 1e-3, **{unit: 1e3 ** (i + 1) for i, unit in enumerate("kMGTP")}} | {
    f"{unit}i": 1024.0 ** (i + 1) for i, unit in enumerate("KMGTP")
}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)")


class RequestError(ValueError):
    """An argument of the task is invalid; the message names it and the cure."""


@dataclass(frozen=True)
class TrainingRequest:
    """What a task runs, with all templates rendered.

    `gpu_pool` None means a CPU pod, `nodes` over 1 a gang of such pods, `run_key` None the default: the DAG
    run's key, or a mapped instance's own.
    """

    step: str
    dataset: str
    output_uri: str
    deadline_seconds: int
    step_params: Mapping[str, Any] = field(default_factory=dict)
    gpu_pool: str | None = None
    gpus: int = 1
    nodes: int = 1
    image: str | None = None
    env_vars: Mapping[str, str] = field(default_factory=dict)
    container_resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    scratch_size: str | None = None
    shared_memory_size: str | None = None
    run_key: str | None = None
    parent_run_key: str | None = None

    def __post_init__(self) -> None:
        """Validate the arguments."""
        if self.step not in STEPS:
            raise RequestError(f"step is {self.step!r}; use one of {', '.join(STEPS)}")
        for name in ("dataset", "output_uri"):
            value = getattr(self, name)
            if not isinstance(value, str) or "://" not in value:
                raise RequestError(f"{name} must be a URI such as file:///data, got {value!r}")
        for name in ("step_params", "env_vars", "container_resources"):
            if not isinstance(getattr(self, name), Mapping):
                raise RequestError(f"{name} must be an object, got {getattr(self, name)!r}")
        for name in ("scratch_size", "shared_memory_size"):
            if (size := getattr(self, name)) is not None:
                _parse_quantity(name, size)
        for name in ("gpus", "nodes"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise RequestError(f"{name} is {number!r}; use a whole number of at least 1")
        if self.nodes > 1 and self.step != "train":
            raise RequestError(
                f"nodes={self.nodes}: step {self.step} runs on one node; only train runs on several"
            )
        for name in ("run_key", "parent_run_key"):
            key = getattr(self, name)
            if key is not None and not (isinstance(key, str) and RUN_KEY.fullmatch(key)):
                raise RequestError(f"{name} is {key!r}; {RUN_KEY_RULE}")


def build_pod(
    platform: Platform, request: TrainingRequest, task: TaskIdentity, attempt: Attempt | None = None
) -> dict[str, Any]:
    """Return the manifest of the pod for one attempt of `task`, by default the first.

    Raises:
        PlatformError: the request names an unknown GPU pool.
        RequestError: the request has more GPUs than a node of the pool, or another team's experiment.
    """
    training = platform.training
    attempt = attempt or Attempt(gpu_pool=request.gpu_pool)
    pool = platform.pool(attempt.gpu_pool) if attempt.gpu_pool else None
    if pool and (refusal := pool.refusal(request.gpus)):
        raise RequestError(refusal)
    if refusal := _refusal_of_experiment(platform, request, task):
        raise RequestError(refusal)
    settings = _settings(platform, pool, request)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(platform, settings, request, task, attempt),
        "spec": {
            "priorityClassName": training.priority_class(pool),
            **_placement(settings, pool, attempt),
            "restartPolicy": "Never",
            "activeDeadlineSeconds": request.deadline_seconds,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "serviceAccountName": training.service_account_name,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "imagePullSecrets": [dict(secret) for secret in training.image_pull_secrets],
            "securityContext": dict(training.pod_security_context),
            "containers": [_container(platform, pool, settings, request, task, attempt)],
            "volumes": [
                *(
                    {"name": name, "persistentVolumeClaim": {"claimName": volume.claim_name}}
                    for name, volume in _claims(training)
                ),
                *settings.volumes(),
            ],
        },
    }


def _placement(settings: PodSettings, pool: GpuPool | None, attempt: Attempt) -> dict[str, Any]:
    """Where the pod may run, and how long on a node that does not answer."""
    tolerations = settings.tolerations
    if not any(each.get("key") == UNREACHABLE for each in tolerations):
        # Kubernetes itself would wait for five minutes.
        seconds = {"tolerationSeconds": UNREACHABLE_SECONDS}
        lost = {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", **seconds}
        tolerations = (*tolerations, lost)
    placement = replace(settings, tolerations=tolerations).placement()
    # A pool of so few nodes waits for one of them.
    if attempt.avoided and pool and pool.max_nodes > len(attempt.avoided):
        placement["affinity"] = _avoiding(settings.affinity, attempt.avoided)
    return placement


def _avoiding(affinity: Mapping[str, Any], nodes: Iterable[str]) -> dict[str, Any]:
    """Add to `affinity` that the pod runs on none of these nodes."""
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    others = affinity.get("nodeAffinity", {})
    # Not by a label, which a node might lack; the terms are alternatives, so each of them gets it.
    avoid = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    terms = others.get(required, {}).get("nodeSelectorTerms") or [{}]
    avoiding = [{**term, "matchFields": [*term.get("matchFields", []), *avoid]} for term in terms]
    return {**affinity, "nodeAffinity": {**others, required: {"nodeSelectorTerms": avoiding}}}


def _claims(training: Training) -> list[tuple[str, Volume]]:
    """The claims that the pod mounts, with names that it may have for them."""
    more = (volume for _, volume in sorted(training.more_volumes.items()))
    volumes = [
        (_DATASETS, training.datasets),
        ("checkpoints", training.checkpoints),
        *((f"more-{number}", volume) for number, volume in enumerate(more)),
    ]
    return [(name, volume) for name, volume in volumes if volume.is_mounted]


def _mount(name: str, volume: Volume, step: str) -> dict[str, Any]:
    mount = {"name": name, "mountPath": volume.mount_path}
    return mount if name != _DATASETS else {**mount, "readOnly": step not in STEPS_THAT_WRITE_DATASETS}


def run_key_of(request: TrainingRequest, task: TaskIdentity) -> str:
    """The key of the task's MLflow run and of its checkpoints."""
    return request.run_key or task.run_key()


def _settings(platform: Platform, pool: GpuPool | None, request: TrainingRequest) -> PodSettings:
    """What the values say about all training pods, then about the pool's, and then what the task says."""
    settings = platform.training.pod
    if pool:
        nodes = PodSettings(node_selector=pool.node_selector, tolerations=pool.tolerations)
        settings = settings.merged(pool.pod).merged(nodes)
    return replace(
        settings,
        scratch_size=request.scratch_size or settings.scratch_size,
        shared_memory_size=request.shared_memory_size or settings.shared_memory_size,
    )


def _metadata(
    platform: Platform, settings: PodSettings, request: TrainingRequest, task: TaskIdentity, attempt: Attempt
) -> dict[str, Any]:
    team = platform.team_of(task.dag_id)
    return {
        "name": task.job_name(attempt.number),
        "namespace": platform.training.namespace,
        "labels": {
            **settings.labels,
            **task.try_labels(),
            **platform.release_labels,
            "app.kubernetes.io/name": "trainer",
            "app.kubernetes.io/component": request.step,
            ATTEMPT: str(attempt.number),
            f"{LABEL_PREFIX}/gpu-pool": attempt.gpu_pool or "none",
            **({f"{LABEL_PREFIX}/team": team.name} if team else {}),
        },
        "annotations": {
            # An autoscaler that evicts pods to remove a node would discard hours of training.
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            "karpenter.sh/do-not-disrupt": "true",
            **settings.annotations,
            f"{LABEL_PREFIX}/dag-id": task.dag_id,
            f"{LABEL_PREFIX}/run-id": task.run_id,
            f"{LABEL_PREFIX}/task-id": task.task_id,
            f"{LABEL_PREFIX}/run-key": run_key_of(request, task),
            ANNOTATION: attempt.annotation(),
        },
    }


def _container(
    platform: Platform,
    pool: GpuPool | None,
    settings: PodSettings,
    request: TrainingRequest,
    task: TaskIdentity,
    attempt: Attempt,
) -> dict[str, Any]:
    training = platform.training
    of_platform = _environment(platform, pool, request, task, attempt)
    of_task = {**request.env_vars, **_adaptations(attempt)}
    return {
        "name": CONTAINER,
        "image": request.image or training.image,
        "imagePullPolicy": training.image_pull_policy,
        "args": [
            *(COMMAND, request.step, RUN_KEY_FLAG, run_key_of(request, task)),
            *(DATASET_FLAG, request.dataset, OUTPUT_FLAG, request.output_uri),
            *(PARAMS_FLAG, json.dumps(dict(request.step_params), sort_keys=True), RESUME_FLAG),
        ],
        **settings.environment(of_platform, of_task),
        "resources": _resources(platform, pool, request, attempt),
        "securityContext": dict(training.container_security_context),
        # The kubelet returns the result as the container's termination message. A container that fails
        # without a result gets its last log lines there instead.
        "terminationMessagePath": RESULT_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            *(_mount(name, volume, request.step) for name, volume in _claims(training)),
            *settings.volume_mounts(),
        ],
    }


def _environment(
    platform: Platform, pool: GpuPool | None, request: TrainingRequest, task: TaskIdentity, attempt: Attempt
) -> dict[str, str]:
    training = platform.training
    env = {
        Env.TRACKING_URI: training.tracking_uri,
        Env.MLFLOW_RUN_ID: "",
        Env.EXPERIMENT: task.dag_id,
        Env.CHECKPOINT_DIR: training.checkpoints.directory(run_key_of(request, task)),
        Env.CHECKPOINT_FREQ: str(training.checkpoint_freq),
        Env.DEVICE: training.gpu_device if pool else "cpu",
        Env.ATTEMPT: str(attempt.number),
        "HOME": "/tmp",
    }
    if pool:
        if not pool.choices:  # else the trigger tells MLflow which one it was
            env[Env.GPU_POOL] = pool.name
        if request.step == "train" and request.gpus > 1:
            env |= job.torchrun_environment("127.0.0.1", 1, request.gpus)
    if request.parent_run_key:
        env[Env.PARENT_RUN_KEY] = request.parent_run_key
    return env


def _refusal_of_experiment(platform: Platform, request: TrainingRequest, task: TaskIdentity) -> str:
    """Return why MLflow would answer 403, or "": with teams, an experiment's name says whose it is."""
    name = request.env_vars.get(Env.EXPERIMENT)
    logs_in = any(volume["name"] == LOGIN_VOLUME for volume in platform.training.pod.extra_volumes)
    if not (name and logs_in) or Env.TRACKING_URI in request.env_vars:
        return ""
    owner, team = platform.team_of(name), platform.team_of(task.dag_id)
    if owner == team:
        return ""
    whose = f"team {owner.name}'s" if owner else "no team's"
    return (
        f"env_vars: {Env.EXPERIMENT} is {name!r}, an experiment that is {whose}, and DAG {task.dag_id} is "
        f"{f'of team {team.name}' if team else 'of no team'}; leave it out, or let `teams.*.dags` in the "
        "values give both to the same team"
    )


def _adaptations(attempt: Attempt) -> dict[str, str]:
    """The variables of an attempt with smaller batches or a fallback; `env_vars` cannot override them."""
    env = {}
    if attempt.batch_divisor > 1:
        env[Env.BATCH_DIVISOR] = str(attempt.batch_divisor)
    if attempt.fallback:
        env[Env.FALLBACK] = attempt.fallback
        env[Env.DEVICE] = "cpu"
    return env


def _resources(
    platform: Platform, pool: GpuPool | None, request: TrainingRequest, attempt: Attempt
) -> dict[str, dict[str, str]]:
    defaults = _default_resources(platform.training, pool)
    own = request.container_resources
    limits = {**defaults["limits"], **own.get("limits", {})}
    # A limit below the default request lowers the request too: the API server would refuse the pod.
    requests = {
        name: limits[name] if name in limits and _to_number(limits[name]) < _to_number(value) else value
        for name, value in defaults["requests"].items()
    }
    resources = {"requests": {**requests, **own.get("requests", {})}, "limits": limits}
    for kind in resources.values():
        if "memory" in kind:
            kind["memory"] = _multiply(kind["memory"], attempt.memory_factor)
        if pool:
            kind[pool.resource_name] = str(request.gpus)
    return resources


def _default_resources(training: Training, pool: GpuPool | None) -> dict[str, dict[str, str]]:
    """The values' resources: a pool's own replace those of all training pods by key."""
    defaults = training.gpu_resources if pool else training.cpu_resources
    own = pool.resources if pool else {}
    return {kind: {**defaults.get(kind, {}), **own.get(kind, {})} for kind in ("requests", "limits")}


def _multiply(quantity: str, factor: int) -> str:
    """Multiply a Kubernetes quantity such as 1.5Gi."""
    number, unit = _parse_quantity("container_resources", quantity)
    return f"{number * factor:.15g}{unit}" if factor > 1 else str(quantity)


def _to_number(quantity: str) -> float:
    number, unit = _parse_quantity("container_resources", quantity)
    return number * _UNITS[unit]


def _parse_quantity(argument: str, quantity: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(str(quantity))
    if not match or match[2] not in _UNITS:
        raise RequestError(f"{argument}: {quantity!r} is no quantity such as 4Gi or 500m")
    return float(match[1]), match[2]
