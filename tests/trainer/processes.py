"""Starts the trainer and the model server in processes that have imported their libraries already.

Each step is a process of its own, forked from one that has only imported torch and MLflow: these imports take
three CPU-seconds, and most steps of the tests take less than one.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

from trainyard_contract import STEPS
from trainyard_trainer import models, tracking

os.environ.update(tracking.CLIENT_ENVIRONMENT)  # as Tracker does before MLflow is imported
for name in ("mlflow", "mlflow.artifacts", "sklearn.datasets", "torch"):
    import_module(name)
for step in STEPS:
    import_module(f"trainyard_trainer.steps.{step}")
for model in models.names():
    models.load(model)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


class ForkedProcess:
    """One call of a module's `main`, from its start to its end."""

    def __init__(self, module: str, arguments: Sequence[object], environment: Mapping[str, str]) -> None:
        # The fork server does not inherit sys.path: it finds this module by the environment.
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), environment["PYTHONPATH"]])
        reader, writer = _context.Pipe(duplex=False)
        self._process = _context.Process(
            target=_run, args=(module, arguments, environment, writer), daemon=True
        )
        self._process.start()
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()))
        reader.close()
        self.returncode: int | None = None

    def send_signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        os.kill(self._process.pid or 0, number)

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def kill(self) -> None:
        """Kill the process, if it runs."""
        self._process.kill()

    def end(self, timeout: float) -> str:
        """The rest of the output, once the process has ended; it is killed after `timeout` seconds."""
        late = threading.Timer(timeout, self._process.kill)
        late.start()
        with self.stdout:
            text = self.stdout.read()
        self._process.join()
        late.cancel()
        self.returncode = self._process.exitcode
        return text


def _run(
    module: str, arguments: Sequence[object], environment: Mapping[str, str], output: Connection
) -> None:
    for standard in (1, 2):
        os.dup2(output.fileno(), standard)
    output.close()
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(import_module(module).main(*arguments))
