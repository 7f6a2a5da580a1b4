"""Container logs: reading on after a broken stream, and the text of a line."""

from __future__ import annotations

import logging

import pytest
from trainyard.kube.logs import LINE_BYTES, LineSplitter, LogPosition, Piece, parse_log_line


def test_a_log_is_read_on_without_losses_or_duplicates() -> None:
    lines = [("T1.1Z", "a"), ("T1.12Z", "b"), ("T1.12Z", "c"), ("T1.12Z", "d"), ("T2Z", "e"), ("T2.5Z", "f")]
    lines = [(f"2026-11-21T07:00:0{stamp[1:]}", text) for stamp, text in lines]
    for cut in range(len(lines) + 1):
        position, seen = LogPosition(), []
        for stream in (lines[:cut], lines, lines[-1:] if cut else lines, lines):
            position.resume()
            seen += [text for stamp, text in stream if position.advance(stamp)]
        assert "".join(seen) == "abcdef", f"cut after {cut} lines"


@pytest.mark.parametrize("known", range(5))
def test_a_progress_bar_is_read_on_after_a_broken_stream(known: int) -> None:
    """Its pieces are one line with one timestamp."""
    stamp = "2026-11-21T07:00:01Z"
    bar = [Piece(f"{stamp} 0%", True), *(Piece(f"{number}0%", False) for number in range(1, 5))]
    after = [Piece("2026-11-21T07:00:02Z done", True), Piece("really", False)]
    position, seen = LogPosition(), []
    for stream in (bar[: known + 1], bar, [*bar, *after], [*bar, *after]):
        position.resume()
        for piece in stream:
            time, _, text = piece.text.partition(" ")
            if position.advance(time) if piece.begins else position.advance_piece():
                seen.append(text if piece.begins else piece.text)
    assert seen == ["0%", "10%", "20%", "30%", "40%", "done", "really"]


def test_lines_out_of_order_within_a_stream_are_kept() -> None:
    position = LogPosition()
    position.resume()
    stamps = ["2026-11-21T07:00:01.2Z", "2026-11-21T07:00:01.1Z", "2026-11-21T07:00:01.3Z"]
    assert all(position.advance(stamp) for stamp in stamps)


def test_the_pieces_of_an_older_line_are_its_own() -> None:
    """A progress bar on stderr that comes after a newer line of stdout."""
    first = [
        Piece("2026-11-21T07:00:02Z newer", True),
        Piece("2026-11-21T07:00:01Z 0%", True),
        Piece("10%", False),
    ]
    then = [*first[:1], Piece("of the newer", False)]
    position, seen = LogPosition(), []
    for stream in (first, then):
        position.resume()
        for piece in stream:
            time, _, text = piece.text.partition(" ")
            if position.advance(time) if piece.begins else position.advance_piece():
                seen.append(text if piece.begins else piece.text)
    assert seen == ["newer", "0%", "10%", "of the newer"]


def split(*chunks: bytes) -> list[Piece]:
    splitter = LineSplitter()
    pieces = [piece for chunk in chunks for piece in splitter.feed(chunk)]
    return [*pieces, *splitter.end()]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_progress_bar_is_one_line_of_many_pieces(size: int) -> None:
    stream = b"T1 10%\r20%\r\n\nT2 done\r\nT3 no end"
    pieces = split(*(stream[at : at + size] for at in range(0, len(stream), size)))
    begun = [("T1 10%", True), ("20%", False), ("", True), ("T2 done", True), ("T3 no end", True)]
    assert pieces == [Piece(*each) for each in begun]


def test_a_line_without_an_end_is_cut() -> None:
    chunks = [b"x" * 4096] * 1000
    first, second = split(*chunks, b"xx\nnext\n")
    assert first.text.startswith("x" * LINE_BYTES) and first.text.endswith("(the line is longer)")
    assert len(first.text) < LINE_BYTES + 100
    assert second == Piece("next", True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            '{"time": "t", "level": "info", "event": "epoch_done", "epoch": 1}',
            (logging.INFO, "epoch_done epoch=1"),
        ),
        ('{"level": "error", "event": "failed", "error": "x"}', (logging.ERROR, "failed error=x")),
        ('{"level": "warning", "event": "library", "message": "m"}', (logging.WARNING, "m")),
        ("plain text", (logging.INFO, "plain text")),
        ("[1, 2]", (logging.INFO, "[1, 2]")),
        ("{broken", (logging.INFO, "{broken")),
    ],
)
def test_log_lines_become_readable(line: str, expected: tuple[int, str]) -> None:
    assert parse_log_line(line) == expected
