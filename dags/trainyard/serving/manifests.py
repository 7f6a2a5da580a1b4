"""Model servers in Kubernetes: their names and manifests, and what the state of a roll-out means.

Pure functions. `deploy_run` does what they say.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainyard.failures import Cause, TaskFailed
from trainyard.kube.status import BROKEN_CONTAINER, BROKEN_IMAGE, UNPULLED_IMAGE, condition, container_status
from trainyard.naming import LABEL_PREFIX, MAX_LABEL, label_safe
from trainyard.platform import Platform, PlatformError, Serving

CONTAINER = "server"
FIELD_MANAGER = "trainyard"
# Between a pod's removal from its Service and SIGTERM: the time for all nodes to hear of the former.
PRE_STOP_SECONDS = 5
GRACE_SECONDS = 45  # with the server's own 30 s to finish what it began
IMAGE_PATIENCE_SECONDS = 120
RESTARTS = 3  # after which a server that ends again and again is given up

# The trainer contract: another attempt would end the same way.
_VERDICTS = {64: Cause.BAD_CONFIG, 65: Cause.BAD_DATA, 70: Cause.CODE}


class DeployFailed(TaskFailed):
    """A deploy that did not succeed."""


class Superseded(DeployFailed):
    """A later deploy of the same model took over: its outcome counts, and this one leaves all as it is."""


@dataclass(frozen=True)
class DeployRequest:
    """What is to serve. `version` is a number; None means the platform's own."""

    model: str
    version: str
    replicas: int | None = None
    image: str | None = None


@dataclass(frozen=True)
class Record:
    """What a Deployment's annotations remember: each field is one, and "" is none.

    `verified_spec` is the whole spec that last served well, so that a roll-back restores precisely what
    served, down to the image, whatever has changed in the platform since.
    """

    model: str
    model_version: str  # of the pods
    deployed_by: str  # the try of a task which has the say
    deploy_started: str = ""  # seconds since 1970, until the deploy is over
    verified_version: str = ""
    verified_spec: str = ""
    replaced_version: str = ""
    deploy_failure: str = ""  # JSON, from when the deploy is rolled back

    def annotations(self) -> dict[str, str]:
        """The annotations that say this."""
        return {_annotation(name): value for name, value in vars(self).items() if value}

    @classmethod
    def read(cls, deployment: Mapping[str, Any] | None) -> Record | None:
        """What a Deployment remembers; None when there is no Deployment."""
        if deployment is None:
            return None
        found = deployment["metadata"].get("annotations") or {}
        return cls(**{name: found.get(_annotation(name), "") for name in cls.__dataclass_fields__})


def serving_of(platform: Platform) -> Serving:
    """Where models are served.

    Raises:
        PlatformError: nowhere.
    """
    if platform.serving is None:
        raise PlatformError("this platform serves no models; set `serving.enabled` in the chart's values")
    return platform.serving


def server_name(model: str) -> str:
    """Name of a model's Deployment and Service: a DNS label. A hash keeps apart what would become one."""
    safe = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    if not safe[:1].isalpha():
        safe = f"model-{safe}".rstrip("-")
    if safe == model and len(safe) <= MAX_LABEL:
        return safe
    digest = hashlib.sha256(model.encode()).hexdigest()[:8]
    return f"{safe[: MAX_LABEL - 9].rstrip('-')}-{digest}"


def server_url(serving: Serving, model: str) -> str:
    """Address of a model's Service within the cluster."""
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


def build_spec(platform: Platform, request: DeployRequest) -> dict[str, Any]:
    """Return the spec of the Deployment which serves `request`."""
    serving, training = serving_of(platform), platform.training
    labels = _selector_labels(request.model)
    return {
        "replicas": request.replicas or serving.replicas,
        "revisionHistoryLimit": 3,
        # The version before goes on answering until each new server is ready.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {
                "labels": {**_labels(request.model), _VERSION_LABEL: label_safe(request.version)},
                "annotations": {
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
                "topologySpreadConstraints": [
                    {
                        "maxSkew": 1,
                        "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": labels},
                    }
                ],
                "containers": [_container(platform, request)],
                "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "4Gi"}}],
            },
        },
    }


def is_rolled_out(deployment: Mapping[str, Any]) -> bool:
    """Whether every pod is of the newest spec and ready, and no other is left."""
    status, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
    counts = ("replicas", "updatedReplicas", "availableReplicas")
    seen = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    return seen and all(status.get(count, 0) == wanted for count in counts)


def refused(deployment: Mapping[str, Any]) -> str:
    """Why the Deployment's pods cannot be made (a quota, a policy); "" when they can."""
    failure = condition(deployment, "ReplicaFailure")
    return str(failure.get("message", "")) if failure.get("status") == "True" else ""


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether the pod answers requests."""
    return condition(pod, "Ready").get("status") == "True"


def has_restarted(pod: Mapping[str, Any]) -> bool:
    """Whether the server runs again after an end, which only the log before tells of."""
    status = container_status(pod, CONTAINER)
    return bool(status.get("restartCount")) and "running" in status.get("state", {})


def server_failure(pod: Mapping[str, Any], seconds_in_state: float) -> DeployFailed | None:
    """Say why a server that is not ready never will be; None while there is hope."""
    status = container_status(pod, CONTAINER)
    state, last = status.get("state", {}), status.get("lastState", {})
    ended = state.get("terminated") or last.get("terminated")
    if ended and (failure := _ended(ended, status.get("restartCount", 0))):
        return failure
    reason = state.get("waiting", {}).get("reason", "")
    text = f"{reason} {state.get('waiting', {}).get('message', '')}".strip()
    if reason in BROKEN_IMAGE or (reason in UNPULLED_IMAGE and seconds_in_state > IMAGE_PATIENCE_SECONDS):
        return DeployFailed(Cause.IMAGE, f"image {pod['spec']['containers'][0]['image']}: {text}")
    if reason in BROKEN_CONTAINER and seconds_in_state > IMAGE_PATIENCE_SECONDS:
        return DeployFailed(Cause.BAD_CONFIG, f"the container cannot be made: {text}")
    return None


def why_not_ready(pod: Mapping[str, Any]) -> str:
    """Say in one line what a pod waits for, or what it does."""
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
    """What kind of thing the container waits for; ErrImagePull and ImagePullBackOff alternate: one kind."""
    reason = str(container_status(pod, CONTAINER).get("state", {}).get("waiting", {}).get("reason", ""))
    return "image" if reason in UNPULLED_IMAGE else reason


def _ended(ended: Mapping[str, Any], restarts: int) -> DeployFailed | None:
    code, words = ended.get("exitCode", -1), _own_words(str(ended.get("message", "")))
    if ended.get("reason") == "OOMKilled":
        return DeployFailed(
            Cause.OOM,
            "the server ran out of memory; raise `serving.resources.limits.memory` of the chart",
        )
    if code in _VERDICTS:
        return DeployFailed(_VERDICTS[code], words or f"the server ended with exit code {code}")
    if restarts >= RESTARTS:
        text = f"the server ended {restarts} times, last with exit code {code}: {words}"
        return DeployFailed(Cause.TEMPORARY if code == 75 else Cause.CODE, text, retry=code == 75)
    return None


def _own_words(message: str) -> str:
    """The error among the last lines of the server's log, which the kubelet keeps; else their end."""
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
        "MLFLOW_TRACKING_URI": training.tracking_uri,
        "TRAINYARD_MODEL": request.model,
        "TRAINYARD_MODEL_VERSION": request.version,
        "TRAINYARD_PORT": str(serving.port),
        "OMP_NUM_THREADS": "1",  # requests run side by side, and would be in each other's way
        "HOME": "/tmp",
    }
    return {
        "name": CONTAINER,
        "image": request.image or training.image,
        "imagePullPolicy": training.image_pull_policy,
        "args": ["python", "-m", "trainyard_serving"],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "ports": [{"name": "http", "containerPort": serving.port, "protocol": "TCP"}],
        "resources": dict(serving.resources),
        "securityContext": dict(training.container_security_context),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "startupProbe": _probe("/ready", periodSeconds=2, failureThreshold=300),
        "readinessProbe": _probe("/ready", periodSeconds=5, failureThreshold=2),
        "livenessProbe": _probe("/ping", periodSeconds=20, failureThreshold=3),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
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
