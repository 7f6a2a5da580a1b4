"""Runs one step: parses its arguments, calls it, and turns the way it ends into a result and an exit code."""

import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from trainyard_contract import RESUME_FLAG, ExitCode

from trainyard_trainer import arguments as command_line
from trainyard_trainer import distributed, log, models, params, result
from trainyard_trainer.context import Context
from trainyard_trainer.distributed import NullTracker, Worker
from trainyard_trainer.errors import (
    BadConfig,
    OutOfMemory,
    Preempted,
    Temporary,
    TrainerError,
    is_not_deterministic,
    ran_out_of_memory,
)
from trainyard_trainer.preemption import Preemption
from trainyard_trainer.settings import Settings
from trainyard_trainer.tracking import Tracker


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step and return its exit code."""
    log.configure()
    preemption = Preemption()
    preemption.install()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        worker = Worker.from_environment()
        if worker.is_launcher:
            return distributed.launch(worker, arguments)
        if worker.local_rank:
            log.warnings_only()  # the processes of a pod share its log
        _run(arguments, worker, preemption)
    except Preempted as preempted:
        preemption.ignore()
        return _preempted(str(preempted))
    except TrainerError as error:
        preemption.ignore()
        return _failed(str(error), error.exit_code)
    except Exception as error:
        preemption.ignore()
        # C++ code, such as torch during its import, turns Preempted into a RuntimeError.
        if preemption.received:
            return _preempted()
        if ran_out_of_memory(error):
            return _failed(f"out of memory: {error}", OutOfMemory.exit_code)
        if is_not_deterministic(error):
            message = f"{str(error).splitlines()[0]}; set the parameter 'deterministic' to false"
            return _failed(message, BadConfig.exit_code)
        return _failed(f"{type(error).__name__}: {error}", TrainerError.exit_code, traceback=True)
    return ExitCode.DONE


def _run(arguments: Sequence[str], worker: Worker, preemption: Preemption) -> None:
    parsed = command_line.parse(arguments)
    given = params.load(parsed.params)
    model = models.load(given.get("model", params.COMMON["model"].default))
    if parsed.step not in model.steps:
        raise BadConfig(f"{model.name} has no step {parsed.step}; it has {', '.join(sorted(model.steps))}")
    known = {**params.COMMON, **model.params}
    completed = params.complete(given, known)
    settings = Settings.from_environment()
    log.event("step_started", step=parsed.step, run_key=parsed.run_key, dataset=parsed.dataset, **given)
    # The step clean is not part of the run: it leaves the status and times of the MLflow run alone.
    is_recorded = worker.is_leader and parsed.step != "clean"
    tracker = Tracker(settings, parsed.run_key) if is_recorded else NullTracker()
    context = Context(
        run_key=parsed.run_key,
        dataset=parsed.dataset,
        output=parsed.output,
        params=completed,
        known_params=known,
        resume=parsed.resume_if_exists,
        model=model,
        settings=settings,
        tracker=tracker,
        preemption=preemption,
        worker=worker,
    )
    try:
        values = import_module(f"trainyard_trainer.steps.{parsed.step}").run(context)
        result.write({**values, "mlflow_run_id": tracker.run_id})
    except Exception as error:
        if not isinstance(error, Temporary):  # after which the next attempt continues the MLflow run
            with suppress(TrainerError):  # the first error is the one to report
                tracker.end(failed=True)
        raise
    tracker.end()
    log.event("step_done", step=parsed.step, **values)


def _preempted(reason: str = "") -> int:
    reason = reason or "preempted by SIGTERM"
    return _failed(f"{reason}; resume with {RESUME_FLAG}", Preempted.exit_code)


def _failed(message: str, exit_code: ExitCode, *, traceback: bool = False) -> int:
    code = int(exit_code)
    log.event("step_failed", level=logging.ERROR, traceback=traceback, error=message, exit_code=code)
    with suppress(TrainerError):  # the message is in the log already
        result.write_failure(message, code)
    return code
