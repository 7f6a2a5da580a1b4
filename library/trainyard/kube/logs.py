"""Container logs: how far a log was read, and how to read one line."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

_LEVELS = {
    "debug": logging.DEBUG,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.ERROR,
}


LINE_BYTES = 16 * 1024  # what is longer is cut: a program that ends no line must not block all others
_CUT = " ... (the line is longer)"


class Piece(NamedTuple):
    """A line, or what a carriage return ends of one: a progress bar's is one line of many pieces."""

    text: str
    begins: bool


class LineSplitter:
    """Splits a stream of bytes into pieces of at most LINE_BYTES."""

    def __init__(self) -> None:
        self._rest, self._begins, self._is_cut = b"", True, False

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """Yield the pieces that the chunk ends."""
        for part in (self._rest + chunk).splitlines(keepends=True):
            body = part.rstrip(b"\r\n")
            is_whole = body != part
            self._rest = b""
            if not self._is_cut and (is_whole or len(body) > LINE_BYTES):
                yield from self._piece(body)
            self._is_cut = not is_whole and (self._is_cut or len(body) > LINE_BYTES)
            if is_whole:
                self._begins = part.endswith(b"\n")
            elif not self._is_cut:
                self._rest = body

    def end(self) -> Iterator[Piece]:
        """Yield what no end of a line ended."""
        if self._rest:
            yield from self._piece(self._rest)

    def _piece(self, body: bytes) -> Iterator[Piece]:
        cut = _CUT if len(body) > LINE_BYTES else ""
        if body or self._begins:
            yield Piece(body[:LINE_BYTES].decode(errors="replace") + cut, self._begins)


async def pieces(chunks: AsyncIterable[bytes]) -> AsyncGenerator[Piece, None]:
    """Yield the pieces of a stream of bytes, also what no end of a line ends."""
    splitter = LineSplitter()
    async for chunk in chunks:
        for piece in splitter.feed(chunk):
            yield piece
    for piece in splitter.end():
        yield piece


@dataclass
class LogPosition:
    """How far a container's log was read.

    That is the newest timestamp, how many lines had it, and how many further pieces the last of these had.
    """

    timestamp: str = ""
    lines: int = 0
    pieces: int = 0
    _to_skip: int = 0
    _pieces_to_skip: int = 0
    _resuming: bool = False
    _is_new: bool = True
    _is_newest: bool = True

    def resume(self) -> None:
        """Prepare for a stream that begins at, or a little before, the newest timestamp."""
        self._to_skip, self._resuming = self.lines, bool(self.timestamp)
        self._pieces_to_skip = 0

    def advance(self, timestamp: str) -> bool:
        """Whether a line with this timestamp is new; if it is, the position moves on."""
        current, newest = _sort_key(timestamp), _sort_key(self.timestamp)
        self._is_new = not (self._resuming and (current < newest or (current == newest and self._to_skip)))
        if not self._is_new:
            self._to_skip -= current == newest
            # The line that was read last may have grown since.
            is_last = current == newest and not self._to_skip
            self._pieces_to_skip = self.pieces if is_last else 0
            self._is_new = is_last
            return False
        self._resuming = False
        # Lines of stdout and stderr may be slightly out of order: none may be lost for that.
        self._is_newest = current >= newest
        if self._is_newest:
            self.lines = self.lines + 1 if current == newest else 1
            self.timestamp, self.pieces = timestamp, 0
        return True

    def advance_piece(self) -> bool:
        """Whether a further piece of the line is new; if it is, the position moves on."""
        if not self._is_new:
            return False
        if self._pieces_to_skip:
            self._pieces_to_skip -= 1
            return False
        self.pieces += self._is_newest
        return True


def unread(piece: Piece, position: LogPosition) -> str | None:
    """The text of a piece of a log with timestamps, or None if it was read before; the position moves on."""
    timestamp, _, text = piece.text.partition(" ")
    if not piece.begins:
        return piece.text if position.advance_piece() else None
    if not timestamp[:1].isdigit():  # from the kubelet, such as why there is no log
        return piece.text
    return text if position.advance(timestamp) else None


def parse_log_line(line: str) -> tuple[int, str]:
    """Level and text of a log line: a JSON object becomes `message key=value ...`."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        return logging.INFO, line
    fields = {k: v for k, v in record.items() if k not in ("level", "time", "timestamp", "ts", "logger")}
    names = [str(fields.pop(key)) for key in ("message", "msg", "event") if key in fields]
    message = names[0] if names else ""
    rest = " ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in fields.items())
    return _LEVELS.get(str(record.get("level", "")).lower(), logging.INFO), f"{message} {rest}".strip()


def _sort_key(timestamp: str) -> str:
    """RFC 3339 drops trailing zeros of the fraction: pad them, so that text order is time order."""
    seconds, _, fraction = timestamp.removesuffix("Z").partition(".")
    return f"{seconds}.{fraction:0<9}" if timestamp else ""
