"""Progress: one line per stage that runs, which says what happens now, and a table of seconds at the end."""

import threading
import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

HEARTBEAT_SECONDS = 30.0
"""Without a terminal, a stage that has said nothing for this long says that it still runs."""


class Reporter(Protocol):
    """What tells the user what happens now: a stage, or one of several jobs in it."""

    def update(self, text: str) -> None:
        """Show ``text``."""


class Stage:
    """A step of a command. ``update`` tells what it does at the moment."""

    def __init__(self, name: str, stages: "Stages") -> None:
        self.name = name
        self.text = ""
        self.status = "running"
        self.started = time.monotonic()
        self.seconds = 0.0
        self.ended = threading.Event()
        self.line: TaskID | None = None  # on a terminal
        self._stages = stages

    def __enter__(self) -> "Stage":
        self._stages._begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.status = "done"
        else:
            self.status = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
        self._stages._end(self)

    def update(self, text: str) -> None:
        """Show ``text`` as what the stage does now; repeating a text prints nothing new."""
        if text != self.text:
            self.text = text
            self._stages._show(self)


class Stages:
    """The stages of one command, in the order in which they begin; several may run at the same time.

    Used as ``with Stages() as stages: with stages("name") as stage: ...``. However the block ends, the
    table of seconds is printed; an interrupt adds how to go on. Exceptions pass through.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._begun: list[Stage] = []
        self._started = time.monotonic()
        self._progress: Progress | None = None  # while a stage runs, on a terminal
        self._lock = threading.Lock()

    def __call__(self, name: str) -> Stage:
        """Return the next stage; it begins when it is entered."""
        return Stage(name, self)

    def __enter__(self) -> "Stages":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._begun:
            self.console.print(self._table())
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.console.print("interrupted: run the command again to go on where it stopped")

    def _begin(self, stage: Stage) -> None:
        stage.started = time.monotonic()
        with self._lock:
            self._begun.append(stage)
            if self.console.is_terminal:
                if not self._progress:
                    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
                    self._progress = Progress(*columns, console=self.console, transient=True)
                    self._progress.start()
                stage.line = self._progress.add_task(stage.name)
                return
        self._show(stage)
        threading.Thread(target=self._beat, args=(stage,), daemon=True).start()

    def _end(self, stage: Stage) -> None:
        stage.seconds = time.monotonic() - stage.started
        stage.ended.set()
        with self._lock:
            if self._progress and stage.line is not None:
                self._progress.remove_task(stage.line)
                if not self._progress.tasks:
                    self._progress.stop()
                    self._progress = None
        self._print(f"{stage.name}: {stage.status} in {stage.seconds:.0f} s")

    def _show(self, stage: Stage) -> None:
        line = f"{stage.name}: {stage.text}" if stage.text else stage.name
        if self._progress and stage.line is not None:
            self._progress.update(stage.line, description=line)
        elif stage.status == "running":
            self._print(f"{line} ...")

    def _beat(self, stage: Stage) -> None:
        while not stage.ended.wait(HEARTBEAT_SECONDS):
            self._show(stage)

    def _print(self, line: str) -> None:
        elapsed = f"[{time.monotonic() - self._started:4.0f}s] "
        self.console.print(elapsed + line, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table("stage", "result", box=None, pad_edge=False)
        table.add_column("seconds", justify="right")
        for stage in self._begun:
            table.add_row(stage.name, stage.status, f"{stage.seconds:.1f}")
        table.add_row("total", "", f"{time.monotonic() - self._started:.1f}")
        return table
