"""Why a task fails: the causes, which all kinds of tasks share, and the exception that holds one."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Cause(StrEnum):
    """Why a task's work ended, or never started."""

    SUCCESS = "success"
    BAD_CONFIG = "bad_config"
    BAD_DATA = "bad_data"
    BAD_RESULT = "bad_result"
    CODE = "code"
    TEMPORARY = "temporary"
    OOM = "oom"
    GPU_OOM = "gpu_oom"
    GPU_FAULT = "gpu_fault"  # of the hardware
    STORAGE = "storage"  # /tmp, /dev/shm or what else a pod writes to was full
    KILLED = "killed"
    UNKNOWN = "unknown"  # an exit code that the trainer contract does not name
    PREEMPTED = "preempted"
    IMAGE = "image"
    DEADLINE = "deadline"
    UNSCHEDULABLE = "unschedulable"
    PLATFORM = "platform"
    SUPERSEDED = "superseded"  # a later deploy of the same model took over


class TaskFailed(Exception):
    """The task did not succeed.

    Args:
        cause: a `Cause`; tasks outside this library may use a string of their own.
        message: what happened, and the cure.
        retry: whether another try may succeed.
        details: more keys of the XCom `failure`.
    """

    def __init__(self, cause: str, message: str, *, retry: bool = False, **details: Any) -> None:
        super().__init__(message)
        self.cause = str(cause)
        self.message = message
        self.retry = retry
        self.details = details
