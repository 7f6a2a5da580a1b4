"""The slowest tests of all suites, from the reports that pytest writes."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rich.table import Table

SHOWN = 15


@dataclass(frozen=True)
class Timed:
    """A test that ran; its fixtures count where they are set up first."""

    stage: str
    test: str
    seconds: float


def read(report: Path) -> list[Timed]:
    """Return the tests of a report in JUnit's format, which is named after the stage."""
    cases = ElementTree.parse(report).iter("testcase")
    return [Timed(report.stem, _name(case), float(case.get("time", 0))) for case in cases]


def _name(case: ElementTree.Element) -> str:
    """Return module and test without the directories, which the stage says."""
    return f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"


def table(tests: Iterable[Timed]) -> Table:
    """Return the SHOWN slowest ones as a table."""
    shown = Table("slowest tests", "stage", box=None, pad_edge=False)
    shown.add_column("seconds", justify="right")
    for each in sorted(tests, key=lambda test: -test.seconds)[:SHOWN]:
        shown.add_row(each.test, each.stage, f"{each.seconds:.1f}")
    return shown
