"""SIGTERM: the node is reclaimed, or somebody stopped the run."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trainyard_trainer.errors import Preempted


class Preemption:
    """Turns SIGTERM into `Preempted`, raised at once or, in a deferred block, at the end of the block."""

    def __init__(self) -> None:
        """Handle nothing before `install`."""
        self.received = False  # whether SIGTERM came at all
        self._pending = False
        self._depth = 0

    def install(self) -> None:
        """Handle SIGTERM from now on; call this in the main thread."""
        signal.signal(signal.SIGTERM, self._handle)

    def ignore(self) -> None:
        """Ignore SIGTERM from now on: the step has ended and only reports how."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    @property
    def pending(self) -> bool:
        """Whether SIGTERM came during a deferred block that has not ended yet."""
        return self._pending

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.received = True
        if self._depth == 0:
            raise Preempted
        self._pending = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Run the block to its end; a SIGTERM during the block raises `Preempted` after it."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._pending and self._depth == 0:
            # Reset, so that the blocks which then save the state do not raise again at their end.
            self._pending = False
            raise Preempted
