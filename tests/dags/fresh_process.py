"""Python code in a process that has imported Airflow and nothing more, as Airflow's own processes begin.

Such processes are forked from one that did the import, which takes two seconds of CPU time, once.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

SECONDS = 300
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["airflow.settings"])


def output_of(code: str, directory: Path, **variables: str) -> str:
    """Run code in a directory, with environment variables; return what it wrote to both outputs."""
    environment = {**os.environ, **variables}
    with tempfile.NamedTemporaryFile("r") as output:
        process = _processes.Process(target=_run, args=(code, str(directory), environment, output.name))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        written = output.read()
    assert process.exitcode == 0, f"it ended as {process.exitcode}:\n{written[-5000:]}"
    return written


def _run(code: str, directory: str, environment: dict[str, str], output: str) -> None:
    with Path(output).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.path.insert(0, directory)  # as `python -c` has it
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(code, names)
