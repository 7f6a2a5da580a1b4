"""How a training pod ended: pure functions that derive the cause from the pod's JSON.

`POLICY` maps each cause to the action that follows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from trainyard_contract import RESULT_ERROR, RESULT_EXIT_CODE, RESULT_LIMIT_BYTES, RESULT_PATH, ExitCode

from trainyard.failures import Cause
from trainyard.kube.status import (
    CONTAINER_ERRORS,
    IMAGE_ERRORS,
    IMAGE_PULL_ERRORS,
    Pod,
    condition,
    container_status,
)

TERMINATION_MESSAGE_BYTES = 4096  # what the kubelet keeps of it
# After a deleted pod's grace period ends, its node counts as lost if the API still lists the pod for so long.
LOST_AFTER_SECONDS = 60
# A node is unreachable after 50 s, its pods are deleted after the seconds that they tolerate that, and some
# time after the deletion the node is asked whether it is there.
UNREACHABLE_SECONDS = 10
LOST_WITH_NODE_SECONDS = 40


class Action(StrEnum):
    """What follows from a cause."""

    SUCCEED = "succeed"
    RELAUNCH = "relaunch"  # create a new pod, which does not use up an Airflow try
    ADAPT = "adapt"  # create a new pod with more memory or smaller batches, once in a try; then FAIL
    RETRY = "retry"  # fail the try; Airflow's retries and backoff decide
    FAIL = "fail"  # fail the task: another try would end the same way


POLICY: Mapping[Cause, Action] = {
    Cause.SUCCESS: Action.SUCCEED,
    Cause.BAD_CONFIG: Action.FAIL,
    Cause.BAD_DATA: Action.FAIL,
    Cause.BAD_RESULT: Action.FAIL,
    Cause.CODE: Action.FAIL,
    Cause.TEMPORARY: Action.RETRY,
    Cause.OOM: Action.ADAPT,
    Cause.GPU_OOM: Action.ADAPT,
    Cause.GPU_FAULT: Action.RELAUNCH,
    Cause.STORAGE: Action.FAIL,
    Cause.KILLED: Action.RETRY,
    Cause.UNKNOWN: Action.RETRY,
    Cause.PREEMPTED: Action.RELAUNCH,
    Cause.IMAGE: Action.FAIL,
    Cause.DEADLINE: Action.RETRY,
    Cause.UNSCHEDULABLE: Action.RETRY,
    Cause.PLATFORM: Action.RETRY,
    Cause.SUPERSEDED: Action.FAIL,
}

# The trainer contract, and the conventions of shells, libc and argparse.
_EXIT_CODES: Mapping[int, tuple[Cause, str]] = {
    2: (Cause.BAD_CONFIG, "the command line was refused"),
    ExitCode.BAD_CONFIG: (Cause.BAD_CONFIG, "bad arguments or configuration"),
    ExitCode.BAD_DATA: (Cause.BAD_DATA, "the data did not pass"),
    ExitCode.CODE_ERROR: (Cause.CODE, "an error in the training code"),
    ExitCode.TEMPORARY: (Cause.TEMPORARY, "a temporary failure (network, MLflow)"),
    126: (Cause.BAD_CONFIG, "the image's command cannot be executed"),
    127: (Cause.BAD_CONFIG, "the image has no such command"),
    128: (Cause.BAD_CONFIG, "the container could not start"),
    135: (Cause.STORAGE, "SIGBUS, as when /dev/shm is full: raise `shared_memory_size`"),
    ExitCode.PREEMPTED: (Cause.PREEMPTED, "stopped by SIGTERM"),
}
# Errors that the trainer found itself; they count even if its pod is being deleted.
_TRAINER_ERROR_CODES = (ExitCode.BAD_CONFIG, ExitCode.BAD_DATA, ExitCode.CODE_ERROR)
# What programs say of a cause that their exit code does not tell: the driver, PyTorch and its DataLoader. Of
# NVIDIA's XIDs only those that another GPU does not have; the others may be the program's.
_WORDS: tuple[tuple[re.Pattern[str], Cause, str], ...] = (
    (
        re.compile(
            r"uncorrectable ECC error|GPU has fallen off the bus"
            r"|\bXid (\(PCI:[^)]*\): )?(48|63|64|74|79|92|94|95)\b"
        ),
        Cause.GPU_FAULT,
        "the GPU is broken",
    ),
    (
        re.compile(
            r"workers are out of shared memory|signal: Bus error"
            r"|No space left on device.*/dev/shm|/torch_\d.*No space"
        ),
        Cause.STORAGE,
        "/dev/shm is full: raise `shared_memory_size`",
    ),
    (
        re.compile(r"DataLoader worker .*signal: Killed"),
        Cause.OOM,
        "out of memory in a process of a DataLoader: raise limits.memory in `container_resources`",
    ),
)
# What these codes say goes before any words.
_CODES_BEFORE_WORDS = (ExitCode.TEMPORARY, ExitCode.PREEMPTED, ExitCode.BAD_DATA)
# The kubelet on a pod that exceeds a limit of its own; what it says of a node under pressure is another text.
_VOLUME_LIMIT = re.compile(r'Usage of EmptyDir volume "([^"]+)" exceeds the limit')
_STORAGE_LIMIT = re.compile(
    r"local ephemeral storage (limit|usage exceeds)|ephemeral local storage usage exceeds"
)
_VOLUME_KEYS = {"tmp": "`scratch_size`", "shm": "`shared_memory_size`"}
# Failures of a registry, a network or a volume that go by themselves, in the words of Go's library, of HTTP
# and of containerd. A single word may be in the name of an image, a Secret or a host.
_TRANSIENT = re.compile(
    r"i/o timeout|TLS handshake timeout|timed out waiting|context deadline exceeded|Client\.Timeout exceeded"
    r"|429 Too Many Requests|500 Internal Server Error|502 Bad Gateway|503 Service Unavailable"
    r"|504 Gateway Time-?out|toomanyrequests:|connection refused|connection reset by peer"
    r"|temporary failure in name resolution|unexpected EOF",
    re.IGNORECASE,
)
# While the kubelet waits before it pulls again, it may not say why the last pull failed.
_BACK_OFF = re.compile(r'Back-off pulling image "[^"]*"')
# Reasons that the kubelet sets on a pod that lost its node or that the node did not admit.
_NODE_REASONS = {
    *("Evicted", "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "Preempting", "NodeAffinity"),
    *("UnexpectedAdmissionError", "AdmissionFailed", "Unknown"),
}


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. `result` is the trainer's JSON if the cause is success; `node` had the pod."""

    cause: Cause
    message: str
    result: Mapping[str, Any] = field(default_factory=dict)
    node: str = ""

    @property
    def action(self) -> Action:
        """The action that follows."""
        return POLICY[self.cause]


def has_started(pod: Pod) -> bool:
    """Whether the container runs or has run, or the pod ended without it."""
    state = container_status(pod).get("state", {})
    return "running" in state or has_ended(pod)


def has_ended(pod: Pod) -> bool:
    """Whether the container has ended, or will never start because the pod ended."""
    state = container_status(pod).get("state", {})
    return "terminated" in state or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_lost(pod: Pod, now: datetime) -> bool:
    """Whether the pod is still listed long after its grace period: its node does not respond."""
    deleted = pod["metadata"].get("deletionTimestamp")  # the end of the grace period
    return bool(deleted) and (now - _time(deleted)).total_seconds() > LOST_AFTER_SECONDS


def may_be_lost(pod: Pod, now: datetime) -> bool:
    """Whether the pod's node has had the time to hear of the deletion, and may be asked whether it is there.

    Nobody on an unreachable node hears of a grace period, so its end is not waited for.
    """
    metadata = pod["metadata"]
    if not (deleted := metadata.get("deletionTimestamp")) or not _left_by_taint(pod):
        return False
    since = (now - _time(deleted)).total_seconds() + metadata.get("deletionGracePeriodSeconds", 0)
    return bool(since > LOST_WITH_NODE_SECONDS)


def is_transient(message: str, image: str) -> bool:
    """Whether a kubelet's message, without the image's name, is of a failure that may go by itself."""
    return bool(_TRANSIENT.search(message.replace(image, "")))


def is_silent(message: str) -> bool:
    """Whether the kubelet says no more than that it pulls an image again later."""
    return bool(_BACK_OFF.fullmatch(message.strip()))


def is_unexplained(pod: Pod) -> bool:
    """Whether the container was killed, and the kubelet has not said yet by what.

    The kernel's word that memory ran out comes to it after the end of the container.
    """
    terminated = container_status(pod).get("state", {}).get("terminated", {})
    told = terminated.get("reason") == "OOMKilled" or _disruption(pod) or pod["status"].get("reason")
    return bool(terminated.get("exitCode") == ExitCode.OUT_OF_MEMORY and not told)


def classify(pod: Pod) -> Outcome:
    """Return the outcome of a pod that has ended."""
    return replace(_classify(pod), node=pod.get("spec", {}).get("nodeName", ""))


def taken_away(pod: Pod | None) -> Outcome:
    """Return the outcome of a pod that was deleted before it ended; None stands for one that never was."""
    return Outcome(Cause.PREEMPTED, (_disruption(pod) if pod else "") or "the pod was deleted")


def _classify(pod: Pod) -> Outcome:
    status = pod.get("status", {})
    reason, message = status.get("reason", ""), status.get("message", "")
    terminated = container_status(pod).get("state", {}).get("terminated")
    if terminated and terminated.get("exitCode") == 0:
        return _success(terminated)
    if reason == "DeadlineExceeded":
        seconds = pod.get("spec", {}).get("activeDeadlineSeconds")
        return Outcome(Cause.DEADLINE, f"the pod ran longer than its {seconds} s; raise `deadline`")
    if own_limit := _exceeded(reason, message):
        return Outcome(Cause.STORAGE, own_limit)
    if terminated and (terminated.get("exitCode") in _TRAINER_ERROR_CODES or _ran_out_of_memory(terminated)):
        return _from_exit(terminated)
    if disruption := _disruption(pod):
        return Outcome(Cause.PREEMPTED, disruption)
    if reason in _NODE_REASONS or reason.startswith(("OutOf", "Unexpected")):
        return Outcome(Cause.PREEMPTED, f"the node ended the pod: {reason} {message}".strip())
    if terminated:
        return _from_exit(terminated)
    return Outcome(Cause.PREEMPTED, f"the pod ended before its container: {reason} {message}".strip(": "))


def pending_failure(pod: Pod, seconds_in_reason: float) -> Outcome | None:
    """Return the outcome of a waiting pod that will never start; None while it may still start.

    `seconds_in_reason` is how long it has waited for the current reason: a Secret may become available, an
    invalid image name never becomes valid. What is transient may take as long as any start.
    """
    waiting = container_status(pod).get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    image = pod["spec"]["containers"][0]["image"]
    # What a Secret or a ConfigMap lacks is told in the words of its maker.
    if reason != "CreateContainerConfigError" and (is_transient(message, image) or is_silent(message)):
        return None
    if reason in IMAGE_ERRORS or (reason in IMAGE_PULL_ERRORS and seconds_in_reason > 180):
        return Outcome(Cause.IMAGE, f"image {image}: {reason} {message}".strip())
    if reason in CONTAINER_ERRORS and seconds_in_reason > 60:
        return Outcome(Cause.BAD_CONFIG, f"the container cannot be created: {reason} {message}".strip())
    return None


def waiting_message(pod: Pod) -> str:
    """What the scheduler and the kubelet report about a waiting pod; compare it to notice a change."""
    waiting = container_status(pod).get("state", {}).get("waiting", {})
    return f"{condition(pod, 'PodScheduled').get('message', '')} {waiting.get('reason', '')}"


def _success(terminated: Mapping[str, Any]) -> Outcome:
    message = terminated.get("message", "")
    try:
        result = json.loads(message)
        wrong = "" if isinstance(result, dict) else "is no JSON object"
    except ValueError:
        result, wrong = None, "is no JSON"
    # The kubelet cuts it.
    if wrong and len(message.encode()) >= TERMINATION_MESSAGE_BYTES:
        wrong = f"is longer than {RESULT_LIMIT_BYTES} bytes"
    if not message:
        wrong = "is missing"
    if wrong:
        return Outcome(
            Cause.BAD_RESULT,
            f"the step exited 0 but its result at {RESULT_PATH} {wrong} (it begins with {message[:200]!r}); "
            f"write a JSON object of at most {RESULT_LIMIT_BYTES} bytes",
        )
    return Outcome(Cause.SUCCESS, "done", result)


def _from_exit(terminated: Mapping[str, Any]) -> Outcome:
    code, reason = terminated.get("exitCode", -1), terminated.get("reason", "")
    detail = _error_text(terminated.get("message", "").strip())
    if reason == "OOMKilled":
        return Outcome(
            Cause.OOM, "out of memory: raise limits.memory in `container_resources` or use smaller batches"
        )
    if _ran_out_of_memory(terminated):
        return Outcome(Cause.GPU_OOM if "cuda" in detail.lower() else Cause.OOM, detail)
    for pattern, cause, meaning in _WORDS:
        if code not in _CODES_BEFORE_WORDS and pattern.search(detail):
            return Outcome(cause, f"{meaning}: {detail}")
    if reason == "StartError":
        return Outcome(Cause.BAD_CONFIG, f"the container could not start: {detail}")
    unnamed = (Cause.UNKNOWN, "the trainer contract does not name it")
    default = (Cause.KILLED, "killed by a signal") if code > 128 else unnamed
    cause, meaning = _EXIT_CODES.get(code, default)
    return Outcome(cause, f"exit code {code}: {meaning}" + (f": {detail}" if detail else ""))


def _ran_out_of_memory(terminated: Mapping[str, Any]) -> bool:
    """Whether the trainer itself reports that memory ran out; 137 alone may be any SIGKILL."""
    try:
        reported = json.loads(terminated.get("message", ""))[RESULT_EXIT_CODE]
    except (ValueError, KeyError, TypeError):
        return False
    return bool(terminated.get("exitCode") == ExitCode.OUT_OF_MEMORY == reported)


def _error_text(message: str) -> str:
    """The error in a termination message: the trainer's `{"error": ...}`, or the end of the log."""
    try:
        return str(json.loads(message)[RESULT_ERROR])
    except (ValueError, KeyError, TypeError):
        return message[-1000:]


def _exceeded(reason: str, message: str) -> str:
    """Which limit of its own a pod was evicted for, and the argument that raises it; "" for other reasons."""
    if reason != "Evicted":
        return ""
    if volume := _VOLUME_LIMIT.search(message):
        key = _VOLUME_KEYS.get(volume[1], "the volume's sizeLimit in the values")
    elif _STORAGE_LIMIT.search(message):
        key = "limits.ephemeral-storage in `container_resources`"
    else:
        return ""
    return f"{message.strip().rstrip('.')}; raise {key}"


def _disruption(pod: Pod) -> str:
    """Why the pod was deleted or evicted; "" if it was not."""
    target = condition(pod, "DisruptionTarget")
    if target.get("status") == "True":
        return f"{target.get('reason', 'disrupted')}: {target.get('message', '')}".strip(": ")
    if pod["metadata"].get("deletionTimestamp"):
        return "the pod was deleted"
    return ""


def _left_by_taint(pod: Pod) -> bool:
    """Whether Kubernetes deleted the pod for a taint of its node, which is unreachable or was tainted."""
    return condition(pod, "DisruptionTarget").get("reason") == "DeletionByTaintManager"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)
