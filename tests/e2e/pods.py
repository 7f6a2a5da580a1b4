"""A recorder of pods: training pods are deleted once their log is read, so tests look at what was seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream
from urllib3.exceptions import HTTPError

Pod = dict[str, Any]
EXEC_SECONDS = 120
NOT_FOUND, GONE = 404, 410


@dataclass
class PodRecorder:
    """Watches namespaces in background threads and keeps the last state of every pod, gone ones included.

    ``deleted`` holds the UIDs of pods that are gone.
    """

    api: client.CoreV1Api
    namespaces: tuple[str, ...]
    pods: dict[str, Pod] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)
    _watches: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        for namespace in self.namespaces:
            self._watches.append(threading.Thread(target=self._watch, args=(namespace,), daemon=True))
            self._watches[-1].start()

    def stop(self) -> None:
        self._stop.set()

    def _watch(self, namespace: str) -> None:
        watched = watch.Watch()
        while not self._stop.is_set():
            try:
                if watched.resource_version is None:
                    watched.resource_version = self._list(namespace)
                self._follow(watched, namespace)
            except (ApiException, HTTPError) as error:
                if isinstance(error, ApiException) and error.status == GONE:
                    watched.resource_version = None
                time.sleep(1)  # the API server restarts or drops old watches

    def _list(self, namespace: str) -> str:
        """Record what is there, and what is not any more. Returns the version from which on to watch."""
        answer = self.api.list_namespaced_pod(namespace)
        there = {pod["metadata"]["uid"]: pod for pod in self._plain(answer)["items"]}
        known = (uid for uid, pod in list(self.pods.items()) if pod["metadata"]["namespace"] == namespace)
        self.deleted.update(set(known) - set(there))
        self.pods.update(there)
        return answer.metadata.resource_version

    def _follow(self, watched: watch.Watch, namespace: str) -> None:
        """Record what happens in the next minute, from where `watched` has got to, which it keeps itself."""
        events = watched.stream(
            self.api.list_namespaced_pod,
            namespace,
            resource_version=watched.resource_version,
            allow_watch_bookmarks=True,  # where nothing happens the version would become too old
            timeout_seconds=60,
            _request_timeout=70,
        )
        for event in events:
            if event["type"] == "BOOKMARK":
                continue
            pod = self._plain(event["object"])
            uid = pod["metadata"]["uid"]
            self.pods[uid] = pod
            if event["type"] == "DELETED":
                self.deleted.add(uid)

    def _plain(self, answer: Any) -> Any:
        return self.api.api_client.sanitize_for_serialization(answer)

    def of_task(self, run_id: str, task_id: str) -> list[Pod]:
        """Pods of one task of one run, oldest first: training pods and Airflow's own worker pods alike."""
        assert all(watch.is_alive() for watch in self._watches), "a watch ended: see its traceback above"
        found = [
            pod
            for pod in list(self.pods.values())
            if (_raw(pod, "run-id"), _raw(pod, "task-id")) == (run_id, task_id)
        ]
        return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def running(self, run_id: str, task_id: str = "train") -> list[Pod]:
        """Those of a task's pods that were last seen running, oldest first; gone ones included."""
        return [pod for pod in self.of_task(run_id, task_id) if pod["status"].get("phase") == "Running"]

    def wait_for_running(self, run_id: str, task_id: str = "train", seconds: float = 180) -> Pod:
        """The first pod of a task that runs."""
        what = f"the {task_id} pod of {run_id} to run"
        return wait_until(what, lambda: self.running(run_id, task_id), seconds=seconds)[0]

    def is_gone(self, pod: Pod) -> bool:
        return pod["metadata"]["uid"] in self.deleted


def _raw(pod: Pod, name: str) -> str | None:
    """The unabridged value of a task coordinate: labels are cut to 63 characters, annotations are not."""
    annotations = pod["metadata"].get("annotations") or {}
    return annotations.get(f"trainyard.dev/{name}") or annotations.get(name.replace("-", "_"))


def node_of(pod: Pod) -> str:
    return pod["spec"].get("nodeName", "")


def has_gpus(core: client.CoreV1Api, node: str) -> bool:
    """Whether a node is ready and offers GPUs."""
    found = core.read_node(node)
    ready = any(each.type == "Ready" and each.status == "True" for each in found.status.conditions)
    tainted = any("unreachable" in each.key for each in found.spec.taints or [])
    return ready and not tainted and found.status.allocatable.get("nvidia.com/gpu", "0") != "0"


def limits_of(pod: Pod) -> dict[str, str]:
    return pod["spec"]["containers"][0].get("resources", {}).get("limits", {})


def ran_between(pod: Pod) -> tuple[datetime, datetime]:
    """Start and end of the first container (UTC); the pod must have ended."""
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return _time(ended["startedAt"]), _time(ended["finishedAt"])


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def scratch_pod(training: dict[str, Any], name: str, container: dict[str, Any], **spec: Any) -> Pod:
    """The manifest of a pod of a test's own, which is what training pods are allowed to be.

    `training` is what the platform file says of those; `container` and `spec` add to it.
    """
    whole = {
        "name": name,
        "image": training["image"],
        "securityContext": training["containerSecurityContext"],
        **container,
    }
    return {
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {"trainyard.dev/role": "cpu"},
            "automountServiceAccountToken": False,
            "securityContext": training["podSecurityContext"],
            "terminationGracePeriodSeconds": 0,
            "containers": [whole],
            **spec,
        },
    }


def gpu_sleeper(platform: dict[str, Any], name: str, pool: str, seconds: int = 900, **spec: Any) -> Pod:
    """The manifest of a scratch pod that holds a GPU of a pool for some seconds.

    `platform` is the platform file; `spec` adds to the pod's.
    """
    training, placement = platform["training"], platform["pools"][pool]
    resources = {"cpu": "10m", "memory": "16Mi", placement["resourceName"]: "1"}
    asleep = {"command": ["sleep", str(seconds)], "resources": {"requests": resources, "limits": resources}}
    usual = {
        # Of a lower class it would be preempted by the training that is to wait for it.
        "priorityClassName": training["priorityClassName"],
        "restartPolicy": "Never",
        "nodeSelector": placement["nodeSelector"],
        "tolerations": placement["tolerations"],
    }
    return scratch_pod(training, name, asleep, **{**usual, **spec})


@contextmanager
def scratch(core: client.CoreV1Api, manifest: dict[str, Any], namespace: str = "") -> Iterator[None]:
    """A pod in a namespace, or without one a namespace, that is there for as long as the block.

    A session that was killed leaves what it made, and every later one would end with a conflict: what is
    there of that name goes first.
    """
    name = manifest["metadata"]["name"]
    kind, where = ("namespaced_pod", (namespace,)) if namespace else ("namespace", ())
    create, read, delete = (getattr(core, f"{verb}_{kind}") for verb in ("create", "read", "delete"))

    def there() -> Any:
        return if_there(read, name, *where)

    def remove() -> None:
        found = there()
        if found and not found.metadata.deletion_timestamp:  # to delete a namespace twice is a conflict
            if_there(delete, name, *where, grace_period_seconds=0)

    remove()
    wait_until(f"what is left of {name} to go", lambda: not there())
    create(*where, manifest)
    try:
        yield
    finally:
        remove()


def if_there(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a call of the API returns; None if what it is about does not exist."""
    try:
        return call(*arguments, **options)
    except ApiException as error:
        if error.status != NOT_FOUND:
            raise
        return None


def log_of(core: client.CoreV1Api, name: str, namespace: str, **options: Any) -> str:
    """A pod's log as it is: the client would return Python's text of what looks like JSON or bytes."""
    return core.read_namespaced_pod_log(name, namespace, _preload_content=False, **options).data.decode()


def component_of(core: client.CoreV1Api, component: str, namespace: str) -> str:
    """The name of the one pod of a component of the release; one that it has replaced may still be ending."""
    selector = f"app.kubernetes.io/component={component}"
    pods = core.list_namespaced_pod(namespace, label_selector=selector).items
    (pod,) = (each for each in pods if not each.metadata.deletion_timestamp)
    return pod.metadata.name


def pods_that_stay(core: client.CoreV1Api, namespace: str) -> set[str]:
    """UIDs of the pods that stay: those of Jobs and of tasks come and go."""
    kinds = ("ReplicaSet", "StatefulSet")
    return {
        pod.metadata.uid
        for pod in core.list_namespaced_pod(namespace).items
        if any(owner.kind in kinds for owner in pod.metadata.owner_references or [])
    }


def sync_mounts(core: client.CoreV1Api, component: str, namespace: str) -> None:
    """Have the kubelet renew a component's mounted ConfigMaps and Secrets now, not within a minute.

    A changed annotation makes it look at the pod at once; the pod does not restart.
    """
    body = {"metadata": {"annotations": {"trainyard.dev/e2e-sync": str(time.time())}}}
    core.patch_namespaced_pod(component_of(core, component, namespace), namespace, body)


def output_of(core: client.CoreV1Api, name: str, namespace: str, *command: str, **options: Any) -> str:
    """What a command prints that is run in a pod; AssertionError with it when the command fails.

    `options` are those of the API, such as the container.
    """
    # With a client of its own: while a command runs, `stream` makes a WebSocket of every request of the
    # client that it is given, and a recorder that begins a watch then would get something it cannot read.
    alone = client.CoreV1Api(client.ApiClient(core.api_client.configuration))
    # Not preloaded: the client would turn an output that is JSON into the text of a Python object.
    connection = stream(
        alone.connect_get_namespaced_pod_exec,
        name,
        namespace,
        command=list(command),
        stdout=True,
        stderr=True,
        _preload_content=False,
        **options,
    )
    connection.run_forever(timeout=EXEC_SECONDS)
    status = connection.returncode  # before read_all, which throws the channel away that has it
    output = connection.read_all()
    assert status == 0, f"{command[0]} in {name} ended as {status}:\n{output}"
    return output


def epochs_done(core: client.CoreV1Api, pod: Pod) -> int:
    """Epochs that a training pod's log reports as done."""
    return log_of(core, pod["metadata"]["name"], pod["metadata"]["namespace"]).count("epoch_done")


def wait_until(what: str, check: Callable[[], Any], seconds: float = 120, every: float = 1) -> Any:
    """The first truthy answer of ``check``; AssertionError that names ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}; last answer: {answer!r}"
        time.sleep(every)
