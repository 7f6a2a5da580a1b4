"""Settings of every process in which the chart's tests run helm."""

import os

import pytest
from remembered import forget_old

# Helm ends long before collecting its garbage pays: a quarter of its CPU time.
os.environ["GOGC"] = "off"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tidy up once, in the process that leads the others."""
    if not hasattr(session.config, "workerinput"):
        forget_old()
