"""Running other programs: output into a log, its last lines into the error."""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from . import paths
from .errors import CliError

SHOWN_LINES = 12
Program = subprocess.Popen[str]
_logged: set[Program] = set()


def run(
    cmd: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    log: str | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``cmd`` and return its result; ``env`` is added to this process's environment.

    Without ``log`` stdout and stderr are captured apart. With it both are appended to
    ``<home>/logs/<log>.log`` while the program runs, and the result's stdout is what it wrote there.
    Raises CliError when the program is missing, exceeds ``timeout`` seconds, or (``check``) fails.
    """
    words = [str(word) for word in cmd]
    log_file = paths.LOGS / f"{log}.log" if log else None
    environment = {**os.environ, **(env or {})}
    try:
        if log_file:
            result = _run_logged(words, log_file, cwd, environment, input, timeout)
        else:
            result = subprocess.run(
                words,
                cwd=cwd,
                env=environment,
                input=input,
                timeout=timeout,
                capture_output=True,
                text=True,
                errors="replace",
            )
    except FileNotFoundError as error:
        missing = cwd if cwd and not cwd.is_dir() else words[0]
        cure = f"install {missing}, then run the command again"
        raise CliError(f"{missing} was not found", cure) from error
    except subprocess.TimeoutExpired as error:
        message = f"{shlex.join(words[:4])} did not end within {timeout:.0f} s"
        raise CliError(message, _where(log_file, "run the command again")) from error
    if check and result.returncode != 0:
        raise failure(result, log_file)
    return result


def failure(result: subprocess.CompletedProcess[str], log_file: Path | None = None) -> CliError:
    """Return the error for a program that failed, with the last lines that it wrote."""
    lines = f"{result.stdout or ''}\n{result.stderr or ''}".strip().splitlines()[-SHOWN_LINES:]
    shown = "".join(f"\n    {line}" for line in lines)
    command = shlex.join(result.args)
    if len(command) > 200:
        command = command[:200] + " ..."
    return CliError(
        f"{command} failed with exit code {result.returncode}:{shown}",
        _where(log_file, "see the lines above, then run the command again"),
    )


def _where(log_file: Path | None, otherwise: str) -> str:
    return f"see {log_file}, then run the command again" if log_file else otherwise


def _run_logged(
    words: list[str],
    log_file: Path,
    cwd: Path | None,
    env: dict[str, str],
    input: str | None,
    timeout: float | None,
) -> subprocess.CompletedProcess[str]:
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("a+", errors="replace") as stream:
        stream.write(f"$ {shlex.join(words)}\n")
        stream.flush()
        start = stream.tell()
        code = _wait_for(words, stream, cwd, env, input, timeout)
        stream.seek(start)
        return subprocess.CompletedProcess(words, code, stream.read(), "")


def _wait_for(
    words: list[str],
    stream: IO[str],
    cwd: Path | None,
    env: dict[str, str],
    input: str | None,
    timeout: float | None,
) -> int:
    """Do what subprocess.run does, with the process in ``running_with_log`` meanwhile."""
    stdin = None if input is None else subprocess.PIPE
    with subprocess.Popen(
        words, cwd=cwd, env=env, stdin=stdin, stdout=stream, stderr=subprocess.STDOUT, text=True
    ) as process:
        _logged.add(process)
        try:
            process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
        finally:
            _logged.discard(process)
    return process.returncode


def running_with_log() -> set[Program]:
    """Return the programs with a log that run now: builds and downloads, which can be ended at any time."""
    return set(_logged)
