"""SIGTERM: the node is being taken away, or somebody stopped the run."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trainyard_trainer.errors import Preempted


class Preemption:
    """Turns SIGTERM into `Preempted`, raised at once, or at the end of what must not be cut in two."""

    def __init__(self) -> None:
        """Nothing is handled before `install`."""
        self.came = False  # whether SIGTERM came at all
        self._requested = False
        self._depth = 0

    def install(self) -> None:
        """Handle SIGTERM from here on; to be called in the main thread."""
        signal.signal(signal.SIGTERM, self._handle)

    def ignore(self) -> None:
        """Take no more notice of SIGTERM: the step is over and only says how it ended."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    @property
    def requested(self) -> bool:
        """Whether SIGTERM came during a deferred block that has not ended yet."""
        return self._requested

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.came = True
        if self._depth == 0:
            raise Preempted
        self._requested = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Run the block to its end; a SIGTERM during it raises `Preempted` after it."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._requested and self._depth == 0:
            # Cleared, so that the blocks which save what is left do not raise again at their end.
            self._requested = False
            raise Preempted
