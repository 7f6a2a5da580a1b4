"""Jobs that run at the same time: their progress, their errors, their end."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from trainyard_cli import parallel, paths, shell
from trainyard_cli.errors import CliError
from trainyard_cli.stages import Reporter


class Shown:
    """A stage's line, each of its texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def update(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "LOGS", tmp_path)
    return tmp_path


def sleeper(reporter: Reporter) -> str:
    reporter.update("sleeping")
    shell.run(["sleep", "60"], log="sleep")
    return "slept"


def test_results_come_in_the_order_of_the_jobs() -> None:
    first_may_end = threading.Event()

    def first(reporter: Reporter) -> int:
        assert first_may_end.wait(10)
        return 1

    def second(reporter: Reporter) -> int:
        first_may_end.set()
        return 2

    assert parallel.run_all(Shown(), [first, second], at_once=2) == [1, 2]


def test_the_line_shows_what_every_job_does_now() -> None:
    shown = Shown()
    both = threading.Barrier(2, timeout=10)

    def job(reporter: Reporter, text: str) -> None:
        reporter.update(text)
        both.wait()

    parallel.run_all(shown, [lambda each: job(each, "building a"), lambda each: job(each, "building b")], 2)
    assert {"building a, building b", "building b, building a"} & set(shown.texts)
    assert shown.texts[-1] in ("building a", "building b"), "what has ended is no longer shown"


def test_an_error_ends_the_programs_of_the_other_jobs_and_is_the_one_that_is_raised(logs: Path) -> None:
    def failing(reporter: Reporter) -> None:
        while not (logs / "sleep.log").exists():
            time.sleep(0.01)
        raise CliError("the image could not be built")

    started = time.monotonic()
    with pytest.raises(CliError, match="the image could not be built"):
        parallel.run_all(Shown(), [sleeper, failing], at_once=2)
    assert time.monotonic() - started < parallel.KILL_SECONDS


def test_after_an_error_no_further_step_begins(logs: Path) -> None:
    steps = []

    def steady(reporter: Reporter) -> None:
        for number in range(1000):
            reporter.update(f"step {number}")
            steps.append(number)
            time.sleep(0.01)

    def failing(reporter: Reporter) -> None:
        raise CliError("no")

    with pytest.raises(CliError, match="no"):
        parallel.run_all(Shown(), [steady, failing, steady], at_once=2)
    assert len(steps) < 1000


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in the foreground: a process that a shell starts in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_the_programs(logs: Path, interruptible: None) -> None:
    def interrupting(reporter: Reporter) -> None:
        while not (logs / "sleep.log").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        parallel.run_all(Shown(), [sleeper, interrupting], at_once=2)
    assert time.monotonic() - started < parallel.KILL_SECONDS
    assert not shell.running_with_log()


def test_a_program_that_ignores_signals_is_killed(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "TERMINATE_SECONDS", 0.2)
    monkeypatch.setattr(parallel, "KILL_SECONDS", 0.5)

    def stubborn(reporter: Reporter) -> None:
        shell.run(["sh", "-c", "trap '' INT TERM; echo ready; exec sleep 60"], log="stubborn")

    def failing(reporter: Reporter) -> None:
        while "ready" not in read(logs / "stubborn.log").splitlines():
            time.sleep(0.01)
        raise CliError("no")

    started = time.monotonic()
    with pytest.raises(CliError, match="no"):
        parallel.run_all(Shown(), [stubborn, failing], at_once=2)
    assert time.monotonic() - started < 30


def read(file: Path) -> str:
    return file.read_text() if file.exists() else ""
