"""How a training pod ended: pure functions that derive the cause from the pod's JSON.

`POLICY` maps each cause to the action that follows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
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

# After a deleted pod's grace period ends, its node counts as lost if the API still lists the pod for so long.
LOST_AFTER_SECONDS = 60


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
    Cause.KILLED: Action.RETRY,
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
    ExitCode.PREEMPTED: (Cause.PREEMPTED, "stopped by SIGTERM"),
}
# Errors that the trainer found itself; they count even if its pod is being deleted.
_TRAINER_ERROR_CODES = (ExitCode.BAD_CONFIG, ExitCode.BAD_DATA, ExitCode.CODE_ERROR)
# Reasons that the kubelet sets on a pod that lost its node or that the node did not admit.
_NODE_REASONS = {
    *("Evicted", "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "Preempting", "NodeAffinity"),
    *("UnexpectedAdmissionError", "AdmissionFailed", "Unknown"),
}


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. `result` is the trainer's JSON if the cause is success."""

    cause: Cause
    message: str
    result: Mapping[str, Any] = field(default_factory=dict)

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
    """Whether the pod is still listed long after its deletion: its node does not respond."""
    deleted = pod["metadata"].get("deletionTimestamp")
    return bool(deleted) and (now - _time(deleted)).total_seconds() > LOST_AFTER_SECONDS


def classify(pod: Pod) -> Outcome:
    """Return the outcome of a pod that has ended."""
    status = pod.get("status", {})
    reason, message = status.get("reason", ""), status.get("message", "")
    terminated = container_status(pod).get("state", {}).get("terminated")
    if terminated and terminated.get("exitCode") == 0:
        return _success(terminated)
    if reason == "DeadlineExceeded":
        seconds = pod.get("spec", {}).get("activeDeadlineSeconds")
        return Outcome(Cause.DEADLINE, f"the pod ran longer than its {seconds} s; raise `deadline`")
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

    `seconds_in_reason` is how long it has waited for the current reason: a registry or a Secret may become
    available, an invalid image name never becomes valid.
    """
    waiting = container_status(pod).get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    image = pod["spec"]["containers"][0]["image"]
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
    except ValueError:
        result = None
    if not isinstance(result, dict):
        return Outcome(
            Cause.BAD_RESULT,
            f"the step exited 0 but left no JSON object at {RESULT_PATH} "
            f"(got {message[:200]!r}); write one of at most {RESULT_LIMIT_BYTES} bytes",
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
    if reason == "StartError":
        return Outcome(Cause.BAD_CONFIG, f"the container could not start: {detail}")
    default = (Cause.KILLED, "killed by a signal") if code > 128 else (Cause.CODE, "unknown exit code")
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


def _disruption(pod: Pod) -> str:
    """Why the pod was deleted or evicted; "" if it was not."""
    target = condition(pod, "DisruptionTarget")
    if target.get("status") == "True":
        return f"{target.get('reason', 'disrupted')}: {target.get('message', '')}".strip(": ")
    if pod["metadata"].get("deletionTimestamp"):
        return "the pod was deleted"
    return ""


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)
