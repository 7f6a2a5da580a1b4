"""Why a task fails: the causes that all kinds of tasks share, and the error that carries one."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Cause(StrEnum):
    """Why a pod ended, or never started."""

    SUCCESS = "success"
    BAD_CONFIG = "bad_config"
    BAD_DATA = "bad_data"
    BAD_RESULT = "bad_result"
    CODE = "code"
    TEMPORARY = "temporary"
    OOM = "oom"
    GPU_OOM = "gpu_oom"
    KILLED = "killed"
    PREEMPTED = "preempted"
    IMAGE = "image"
    DEADLINE = "deadline"
    UNSCHEDULABLE = "unschedulable"
    PLATFORM = "platform"


class TaskFailed(Exception):
    """A task that did not succeed.

    Args:
        cause: a `Cause`, or another word for it.
        message: what happened, and the cure.
        retry: whether another try may succeed.
        details: what else the XCom `failure` is to tell.
    """

    def __init__(self, cause: str, message: str, *, retry: bool = False, **details: Any) -> None:
        super().__init__(message)
        self.cause = str(cause)
        self.message = message
        self.retry = retry
        self.details = details
