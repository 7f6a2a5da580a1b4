"""How a step may fail. Each error carries the exit code by which the platform decides whether to retry."""

import errno
from pathlib import Path
from typing import ClassVar


class TrainerError(Exception):
    """A failure with one clear message: what is wrong, and where it is not obvious, the cure."""

    exit_code: ClassVar[int] = 70


class BadConfig(TrainerError):
    """Arguments, parameters or environment are wrong; another attempt would fail alike."""

    exit_code = 64


class BadData(TrainerError):
    """The dataset breaks a rule or is damaged; another attempt would fail alike."""

    exit_code = 65


class CodeError(TrainerError):
    """The trainer itself is wrong."""

    exit_code = 70


class Temporary(TrainerError):
    """The network, MLflow or a disk failed for now; worth another attempt after a pause."""

    exit_code = 75


class OutOfMemory(TrainerError):
    """Memory of the process or of the GPU ran out: worth an attempt only with more of it."""

    exit_code = 137


def ran_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of the process or of the GPU: torch is not imported to know its error."""
    return isinstance(error, OutOfMemory | MemoryError) or type(error).__name__ == "OutOfMemoryError"


class Preempted(BaseException):
    """SIGTERM came. Not an Exception, so that no library swallows it on its way out."""

    exit_code: ClassVar[int] = 143


_TEMPORARY_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}


def storage_error(doing: str, path: Path, error: OSError) -> TrainerError:
    """Say what went wrong while `doing` (as in "writing the checkpoint") at `path`, and what helps."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Temporary(f"{doing} {path}: no space left on the volume; free some or enlarge it")
    if error.errno in _TEMPORARY_STORAGE:
        return Temporary(f"{doing} {path}: {error.strerror}")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return BadConfig(f"{doing} {path}: {error.strerror}; this step needs a volume that it may write to")
    return BadConfig(f"{doing} {path}: {error.strerror or error}")
