"""Container logs: reading on after a broken stream, and the text of a line."""

from __future__ import annotations

import logging

import pytest
from trainyard.kube.logs import LogPosition, parse_log_line


def test_a_log_is_read_on_without_losses_or_duplicates() -> None:
    lines = [("T1.1Z", "a"), ("T1.12Z", "b"), ("T1.12Z", "c"), ("T1.12Z", "d"), ("T2Z", "e"), ("T2.5Z", "f")]
    lines = [(f"2026-11-21T07:00:0{stamp[1:]}", text) for stamp, text in lines]
    for cut in range(len(lines) + 1):
        position, seen = LogPosition(), []
        for stream in (lines[:cut], lines, lines[-1:] if cut else lines, lines):
            position.resume()
            seen += [text for stamp, text in stream if position.advance(stamp)]
        assert "".join(seen) == "abcdef", f"cut after {cut} lines"


def test_lines_out_of_order_within_a_stream_are_kept() -> None:
    position = LogPosition()
    position.resume()
    stamps = ["2026-11-21T07:00:01.2Z", "2026-11-21T07:00:01.1Z", "2026-11-21T07:00:01.3Z"]
    assert all(position.advance(stamp) for stamp in stamps)


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
