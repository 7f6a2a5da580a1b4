"""How a step can fail. Each error carries the exit code by which the platform decides whether to retry."""

import errno
from typing import ClassVar

from trainyard_contract import ExitCode


class TrainerError(Exception):
    """A failure with one clear message: what is wrong and, where it is not obvious, how to fix it."""

    exit_code: ClassVar[ExitCode] = ExitCode.CODE_ERROR


class BadConfig(TrainerError):
    """Arguments, parameters or environment are wrong; a retry would fail in the same way."""

    exit_code = ExitCode.BAD_CONFIG


class BadData(TrainerError):
    """The dataset breaks a rule or is damaged; a retry would fail in the same way."""

    exit_code = ExitCode.BAD_DATA


class CodeError(TrainerError):
    """The trainer's code is wrong."""

    exit_code = ExitCode.CODE_ERROR


class Temporary(TrainerError):
    """The network, MLflow or a disk failed; the step is retried after a pause."""

    exit_code = ExitCode.TEMPORARY


class OutOfMemory(TrainerError):
    """The process or the GPU ran out of memory; a retry needs more of it or smaller batches."""

    exit_code = ExitCode.OUT_OF_MEMORY


def ran_out_of_memory(error: Exception) -> bool:
    """Return whether the process or the GPU ran out of memory. Compares names to avoid importing torch."""
    return isinstance(error, OutOfMemory | MemoryError) or type(error).__name__ == "OutOfMemoryError"


def is_not_deterministic(error: Exception) -> bool:
    """Return whether torch refused an operation that has no deterministic implementation."""
    return isinstance(error, RuntimeError) and "deterministic implementation" in str(error)


class Preempted(BaseException):
    """SIGTERM came. Not an Exception, so that no library catches it."""

    exit_code: ClassVar[ExitCode] = ExitCode.PREEMPTED


_TEMPORARY_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}


def storage_error(doing: str, path: object, error: OSError) -> TrainerError:
    """Return the error to raise for an OSError that came while `doing` (as in "writing the checkpoint")."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Temporary(f"{doing} {path}: no space left on the volume; free some or enlarge it")
    if error.errno in _TEMPORARY_STORAGE:
        return Temporary(f"{doing} {path}: {error.strerror}")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return BadConfig(f"{doing} {path}: {error.strerror}; this step has to be allowed to do that")
    return BadConfig(f"{doing} {path}: {error.strerror or error}")
