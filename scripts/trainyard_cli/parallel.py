"""Several jobs of one stage at the same time: shown on its one line, and ended together."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

from . import shell
from .shell import Program
from .stages import Reporter

Work = Callable[[Reporter], Any]
"""What a job does; it tells the reporter each of its steps."""

# SIGINT lets compilers and builders clean up, but is ignored below a shell's background job.
TERMINATE_SECONDS = 2.0
KILL_SECONDS = 10.0


class Stopped(Exception):
    """Raised in a job at its next step, after another job has failed or the user has interrupted."""


class Jobs:
    """What each of the jobs does at the moment, as one line."""

    def __init__(self, reporter: Reporter) -> None:
        self.stopped = False
        self._reporter = reporter
        self._doing: dict[Job, str] = {}
        self._lock = threading.Lock()

    def show(self, job: "Job", text: str) -> None:
        """Show what the job does; "" once it has ended."""
        with self._lock:
            self._doing[job] = text
            shown = ", ".join(filter(None, self._doing.values()))
            if shown and not self.stopped:
                self._reporter.update(shown)


class Job:
    """The reporter of one job: takes the place of the stage in the functions that the job calls."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def update(self, text: str) -> None:
        """Show ``text`` as what the job does now. Raises Stopped where it must not begin that."""
        if self._jobs.stopped:
            raise Stopped
        self._jobs.show(self, text)

    def run(self, work: Work) -> Any:
        """Do the work, and take it off the line when it has ended."""
        try:
            return work(self)
        finally:
            self._jobs.show(self, "")


def run_all(reporter: Reporter, work: Sequence[Work], at_once: int) -> list[Any]:
    """Run the functions, ``at_once`` at a time in their order, and return their results.

    After the first error, or Ctrl-C, no further one starts, the programs that the others run are ended, and
    that error is raised when all have ended. Only one group of jobs may run at a time.
    """
    jobs = Jobs(reporter)
    futures: list[Future[Any]] = []
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        try:
            for each in work:
                futures.append(pool.submit(Job(jobs).run, each))
            wait(futures, return_when=FIRST_EXCEPTION)
            _raise_first(futures)
        except BaseException:
            jobs.stopped = True
            pool.shutdown(wait=False, cancel_futures=True)
            _end(futures)
            raise
    return [future.result() for future in futures]


def _raise_first(futures: Sequence[Future[Any]]) -> None:
    for future in futures:
        error = future.exception() if future.done() else None
        if error:
            raise error


def _end(futures: Sequence[Future[Any]]) -> None:
    """End the jobs' programs: as Ctrl-C does, then with the signals that are harder to ignore."""
    begun = [future for future in futures if not future.cancelled()]
    started = time.monotonic()
    sent: dict[Program, signal.Signals] = {}
    # More than once: a job may have been about to start a program.
    while wait(begun, timeout=0.1).not_done:
        wanted = _signal_after(time.monotonic() - started)
        for program in shell.running_with_log():
            if sent.get(program) is not wanted:
                program.send_signal(wanted)
                sent[program] = wanted


def _signal_after(seconds: float) -> signal.Signals:
    if seconds < TERMINATE_SECONDS:
        return signal.SIGINT
    return signal.SIGTERM if seconds < KILL_SECONDS else signal.SIGKILL
