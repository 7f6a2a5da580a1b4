"""Airflow's command line on a database of a test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# `python -c` this with commands as arguments: they share a process, whose start takes seconds of CPU time.
COMMANDS = """
import sys
from airflow.cli.cli_parser import get_parser
for command in sys.argv[1:]:
    arguments = get_parser().parse_args(command.split())
    arguments.func(arguments)
"""


def airflow(home: Path, *commands: str, **settings: str) -> list[str]:
    """Run commands, one after the other, on the SQLite database in `home`; return the lines they printed."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        **settings,
    }
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *commands],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.splitlines()
