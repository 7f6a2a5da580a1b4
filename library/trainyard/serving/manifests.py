"""Model servers in Kubernetes: names, manifests and the state of a roll-out, as pure functions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainyard_contract import Env, ExitCode, ServingEnv, ServingPath

from trainyard.failures import Cause, TaskFailed
from trainyard.kube.status import (
    CONTAINER_ERRORS,
    IMAGE_ERRORS,
    IMAGE_PULL_ERRORS,
    condition,
    container_status,
)
from trainyard.naming import LABEL_PREFIX, MAX_LABEL, label_safe
from trainyard.platform import Platform, PlatformError, Serving

CONTAINER = "server"
FIELD_MANAGER = "trainyard"
# Between a pod's removal from its Service and SIGTERM, so that all nodes stop routing to it.
PRE_STOP_SECONDS = 5
GRACE_SECONDS = 45  # the server itself takes up to 30 s to finish open requests
START_ERROR_SECONDS = 120  # how long an error of the image or container may last
MAX_RESTARTS = 3  # after which the deploy fails

# The trainer contract: another attempt would end the same way.
_EXIT_CODES = {
    ExitCode.BAD_CONFIG: Cause.BAD_CONFIG,
    ExitCode.BAD_DATA: Cause.BAD_DATA,
    ExitCode.CODE_ERROR: Cause.CODE,
}


class DeployFailed(TaskFailed):
    """The deploy did not succeed."""


class Superseded(DeployFailed):
    """A later deploy of the same model took over; this one does not roll back."""


@dataclass(frozen=True)
class DeployRequest:
    """What to deploy. `version` is a number; None means the platform's default."""

    model: str
    version: str
    replicas: int | None = None
    image: str | None = None


@dataclass(frozen=True)
class Record:
    """The state of a deploy in the Deployment's annotations: one for each field that is not "".

    `verified_spec` is the whole spec that was last verified, so that a roll-back restores it exactly,
    including the image, even if the platform has changed.
    """

    model: str
    model_version: str  # of the pods
    deployed_by: str  # the try of a task that owns the Deployment
    deploy_started: str = ""  # UNIX time; "" after the deploy has ended
    verified_version: str = ""
    verified_spec: str = ""
    replaced_version: str = ""
    deploy_failure: str = ""  # JSON; set when the deploy is rolled back

    def annotations(self) -> dict[str, str]:
        """The record as annotations."""
        return {_annotation(name): value for name, value in vars(self).items() if value}

    @classmethod
    def read(cls, deployment: Mapping[str, Any] | None) -> Record | None:
        """The record in a Deployment; None if there is no Deployment."""
        if deployment is None:
            return None
        annotations = deployment["metadata"].get("annotations") or {}
        return cls(**{name: annotations.get(_annotation(name), "") for name in cls.__dataclass_fields__})


def serving_of(platform: Platform) -> Serving:
    """The platform's serving settings.

    Raises:
        PlatformError: the platform serves no models.
    """
    if platform.serving is None:
        raise PlatformError("this platform serves no models; set `serving.enabled` in the chart's values")
    return platform.serving


def server_name(model: str) -> str:
    """Name of a model's Deployment and Service: a DNS label, with a hash if it is not the model's name."""
    safe = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    if not safe[:1].isalpha():
        safe = f"model-{safe}".rstrip("-")
    if safe == model and len(safe) <= MAX_LABEL:
        return safe
    digest = hashlib.sha256(model.encode()).hexdigest()[:8]
    return f"{safe[: MAX_LABEL - 9].rstrip('-')}-{digest}"


def server_url(serving: Serving, model: str) -> str:
    """URL of a model's Service within the cluster."""
    return f"http://{server_name(model)}.{serving.namespace}.svc.cluster.local:{serving.port}"


def selector(model: str, version: str = "") -> str:
    """The label selector for the pods of a model, or of one version of it."""
    labels = {**_selector_labels(model), **({_VERSION_LABEL: label_safe(version)} if version else {})}
    return ",".join(f"{key}={value}" for key, value in labels.items())


def build_deployment(
    platform: Platform, model: str, spec: Mapping[str, Any], record: Record
) -> dict[str, Any]:
    """Return the manifest of a model's Deployment with this spec."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**_metadata(platform, model), "annotations": record.annotations()},
        "spec": dict(spec),
    }


def build_service(platform: Platform, model: str) -> dict[str, Any]:
    """Return the manifest of a model's Service."""
    port = {"name": "http", "port": serving_of(platform).port, "targetPort": "http", "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**_metadata(platform, model), "annotations": {_annotation("model"): model}},
        "spec": {"type": "ClusterIP", "selector": _selector_labels(model), "ports": [port]},
    }


def build_disruption_budget(platform: Platform, model: str) -> dict[str, Any] | None:
    """Return the manifest of a model's PodDisruptionBudget; None if the platform makes none."""
    budget = serving_of(platform).disruption_budget
    if budget is None:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(platform, model),
        "spec": {**budget, "selector": {"matchLabels": _selector_labels(model)}},
    }


def build_spec(platform: Platform, request: DeployRequest) -> dict[str, Any]:
    """Return the spec of the Deployment that serves `request`."""
    serving, training = serving_of(platform), platform.training
    labels = _selector_labels(request.model)
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    return {
        "replicas": request.replicas or serving.replicas,
        "revisionHistoryLimit": 3,
        # An old server is stopped only after a new one is ready.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {
                "labels": {
                    **serving.pod.labels,
                    **_labels(request.model),
                    _VERSION_LABEL: label_safe(request.version),
                },
                "annotations": {
                    **serving.pod.annotations,
                    _annotation("model"): request.model,
                    _annotation("model_version"): request.version,
                },
            },
            "spec": {
                "serviceAccountName": serving.service_account_name,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "priorityClassName": serving.priority_class_name,
                "terminationGracePeriodSeconds": GRACE_SECONDS,
                "imagePullSecrets": [dict(secret) for secret in training.image_pull_secrets],
                "securityContext": dict(training.pod_security_context),
                "topologySpreadConstraints": [spread],
                **serving.pod.placement(),
                "containers": [_container(platform, request)],
                "volumes": serving.pod.volumes(),
            },
        },
    }


def is_rolled_out(deployment: Mapping[str, Any]) -> bool:
    """Whether all pods are ready and have the newest spec."""
    status, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
    counts = ("replicas", "updatedReplicas", "availableReplicas")
    observed = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    return observed and all(status.get(count, 0) == wanted for count in counts)


def replica_failure(deployment: Mapping[str, Any]) -> str:
    """Why the Deployment's pods cannot be created (a quota, a policy); "" if they can."""
    failure = condition(deployment, "ReplicaFailure")
    return str(failure.get("message", "")) if failure.get("status") == "True" else ""


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether the pod is ready."""
    return condition(pod, "Ready").get("status") == "True"


def has_restarted(pod: Mapping[str, Any]) -> bool:
    """Whether the server runs again after it ended; the `previous` log shows why it did."""
    status = container_status(pod, CONTAINER)
    return bool(status.get("restartCount")) and "running" in status.get("state", {})


def server_failure(pod: Mapping[str, Any], seconds_in_state: float) -> DeployFailed | None:
    """Return why a server will never become ready; None while it may still do so."""
    status = container_status(pod, CONTAINER)
    state, last = status.get("state", {}), status.get("lastState", {})
    ended = state.get("terminated") or last.get("terminated")
    if ended and (failure := _exit_failure(ended, status.get("restartCount", 0))):
        return failure
    reason = state.get("waiting", {}).get("reason", "")
    text = f"{reason} {state.get('waiting', {}).get('message', '')}".strip()
    if reason in IMAGE_ERRORS or (reason in IMAGE_PULL_ERRORS and seconds_in_state > START_ERROR_SECONDS):
        return DeployFailed(Cause.IMAGE, f"image {pod['spec']['containers'][0]['image']}: {text}")
    if reason in CONTAINER_ERRORS and seconds_in_state > START_ERROR_SECONDS:
        return DeployFailed(Cause.BAD_CONFIG, f"the container cannot be created: {text}")
    return None


def why_not_ready(pod: Mapping[str, Any]) -> str:
    """Return in one line what a pod waits for, or what it does."""
    node = pod["spec"].get("nodeName")
    if not node:
        return (
            f"not scheduled: {condition(pod, 'PodScheduled').get('message') or 'waiting for the scheduler'}"
        )
    state = container_status(pod, CONTAINER).get("state", {})
    if "running" in state:
        return f"on node {node}: the model is loading"
    waiting = state.get("waiting", {})
    text = f"{waiting.get('reason', 'starting')} {waiting.get('message', '')}".strip()
    return f"on node {node}: {text}"


def waiting_kind(pod: Mapping[str, Any]) -> str:
    """What the container waits for; ErrImagePull and ImagePullBackOff alternate, so they are one kind."""
    reason = str(container_status(pod, CONTAINER).get("state", {}).get("waiting", {}).get("reason", ""))
    return "image" if reason in IMAGE_PULL_ERRORS else reason


def _exit_failure(terminated: Mapping[str, Any], restarts: int) -> DeployFailed | None:
    """Why a server that ended will not become ready; None if its restart may help."""
    code, error = terminated.get("exitCode", -1), _error_text(str(terminated.get("message", "")))
    if terminated.get("reason") == "OOMKilled":
        return DeployFailed(
            Cause.OOM,
            "the server ran out of memory; raise `serving.resources.limits.memory` of the chart",
        )
    if code in _EXIT_CODES:
        return DeployFailed(_EXIT_CODES[code], error or f"the server ended with exit code {code}")
    if restarts >= MAX_RESTARTS:
        text = f"the server ended {restarts} times, last with exit code {code}: {error}"
        temporary = code == ExitCode.TEMPORARY
        return DeployFailed(Cause.TEMPORARY if temporary else Cause.CODE, text, retry=temporary)
    return None


def _error_text(message: str) -> str:
    """The error in a termination message, which is the end of the server's log; else its last characters."""
    for line in reversed(message.splitlines()):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "error" in record:
            return str(record["error"])
    return message.strip()[-500:]


def _container(platform: Platform, request: DeployRequest) -> dict[str, Any]:
    serving, training = serving_of(platform), platform.training
    env = {
        Env.TRACKING_URI: training.tracking_uri,
        ServingEnv.MODEL: request.model,
        ServingEnv.MODEL_VERSION: request.version,
        ServingEnv.PORT: str(serving.port),
        "OMP_NUM_THREADS": "1",  # requests run in parallel and would compete for cores
        "HOME": "/tmp",
    }
    return {
        "name": CONTAINER,
        "image": request.image or training.image,
        "imagePullPolicy": training.image_pull_policy,
        "args": ["python", "-m", "trainyard_serving"],
        **serving.pod.environment(env, {}),
        "ports": [{"name": "http", "containerPort": serving.port, "protocol": "TCP"}],
        "resources": dict(serving.resources),
        "securityContext": dict(training.container_security_context),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "startupProbe": _probe(ServingPath.READY, periodSeconds=1, failureThreshold=600),
        "readinessProbe": _probe(ServingPath.READY, periodSeconds=5, failureThreshold=2),
        "livenessProbe": _probe(ServingPath.PING, periodSeconds=20, failureThreshold=3),
        "volumeMounts": serving.pod.volume_mounts(),
    }


def _probe(path: str, **fields: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 5, **fields}


def _metadata(platform: Platform, model: str) -> dict[str, Any]:
    namespace = serving_of(platform).namespace
    return {"name": server_name(model), "namespace": namespace, "labels": _labels(model)}


def _labels(model: str) -> dict[str, str]:
    return {
        **_selector_labels(model),
        "app.kubernetes.io/component": "serving",
        "app.kubernetes.io/part-of": "trainyard",
        "app.kubernetes.io/managed-by": "trainyard",
    }


def _selector_labels(model: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "model-server", "app.kubernetes.io/instance": server_name(model)}


_VERSION_LABEL = f"{LABEL_PREFIX}/model-version"


def _annotation(name: str) -> str:
    return f"{LABEL_PREFIX}/{name.replace('_', '-')}"
