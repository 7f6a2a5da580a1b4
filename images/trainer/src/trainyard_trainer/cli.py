"""The command line: `trainer <step> --run-key K --dataset URI --output URI [--params JSON]`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from trainyard_trainer import distributed, log, models, params, result
from trainyard_trainer.context import Context
from trainyard_trainer.distributed import Place, SilentTracker
from trainyard_trainer.errors import (
    BadConfig,
    OutOfMemory,
    Preempted,
    Temporary,
    TrainerError,
    ran_out_of_memory,
)
from trainyard_trainer.preemption import Preemption
from trainyard_trainer.settings import RUN_KEY, RUN_KEY_RULE, Settings
from trainyard_trainer.steps import STEPS
from trainyard_trainer.tracking import Tracker


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadConfig(f"{message}; see trainer --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step and return its exit code, as the contract says."""
    log.configure()
    preemption = Preemption()
    preemption.install()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        place = Place.from_environment()
        if place.starts_processes:
            return distributed.start(place, arguments)
        if place.local_rank:
            log.warnings_only()  # processes of one GPU each share the log of their pod
        _run(arguments, place, preemption)
    except Preempted as preempted:
        preemption.ignore()
        return _preempted(str(preempted))
    except TrainerError as error:
        preemption.ignore()
        return _failed(str(error), error.exit_code)
    except Exception as error:
        preemption.ignore()
        if (
            preemption.came
        ):  # a library in C++, such as torch while it is imported, makes a RuntimeError of it
            return _preempted()
        if ran_out_of_memory(error):
            return _failed(f"out of memory: {error}", OutOfMemory.exit_code)
        return _failed(f"{type(error).__name__}: {error}", TrainerError.exit_code, traceback=True)
    return 0


def _run(arguments: Sequence[str], place: Place, preemption: Preemption) -> None:
    parsed = _parser().parse_args(arguments)
    if not RUN_KEY.fullmatch(parsed.run_key):
        raise BadConfig(f"--run-key is {parsed.run_key!r}; {RUN_KEY_RULE}")
    given = params.load(parsed.params)
    model = models.load(given.get("model", params.COMMON["model"].default))
    if parsed.step not in model.steps:
        raise BadConfig(f"{model.name} has no step {parsed.step}; it has {', '.join(sorted(model.steps))}")
    known = {**params.COMMON, **model.params}
    completed = params.complete(given, known)
    settings = Settings.from_environment()
    log.event("step_started", step=parsed.step, run_key=parsed.run_key, dataset=parsed.dataset, **given)
    # To clean up is no part of the run, whose status and times in MLflow stay as they are.
    records = place.leads and parsed.step != "clean"
    tracker = Tracker(settings, parsed.run_key) if records else SilentTracker()
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
        place=place,
    )
    try:
        values = import_module(f"trainyard_trainer.steps.{parsed.step}").run(context)
        result.write({**values, "mlflow_run_id": tracker.run_id})
    except Exception as error:
        if not isinstance(error, Temporary):  # the next attempt goes on with the run
            with suppress(TrainerError):  # the first error counts
                tracker.end(failed=True)
        raise
    tracker.end()
    log.event("step_done", step=parsed.step, **values)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="trainer", description="Run one step of a model's training.", allow_abbrev=False)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--run-key", required=True, help="names the run, however many attempts it takes")
    parser.add_argument("--dataset", required=True, metavar="URI", help="what the step reads")
    parser.add_argument("--output", required=True, metavar="URI", help="where the step writes to")
    parser.add_argument("--params", default="{}", metavar="JSON", help="parameters as one JSON object")
    parser.add_argument(
        "--resume-if-exists", action="store_true", help="go on from the newest checkpoint, if there is one"
    )
    return parser


def _preempted(reason: str = "") -> int:
    reason = reason or "preempted by SIGTERM"
    return _failed(f"{reason}; resume with --resume-if-exists", Preempted.exit_code)


def _failed(message: str, exit_code: int, *, traceback: bool = False) -> int:
    log.event("step_failed", level=logging.ERROR, traceback=traceback, error=message, exit_code=exit_code)
    with suppress(TrainerError):  # the message is in the log already
        result.write_failure(message, exit_code)
    return exit_code
