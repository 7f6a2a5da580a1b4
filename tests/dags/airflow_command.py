"""Airflow's command line, and scripts, on a database of a test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    return _run(home, ["-c", COMMANDS, *commands], settings)


def run_script(home: Path, script: Path, *arguments: str, **settings: str) -> dict[str, Any]:
    """Run a script on the SQLite database in `home`, with the DAGs beside it; return its found.json there.

    It may import what is in tests/dags.
    """
    settings = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(script.parent / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]]),
        **settings,
    }
    _run(home, [str(script), *arguments], settings)
    found: dict[str, Any] = json.loads((home / "found.json").read_text())
    return found


def _run(home: Path, arguments: list[str], settings: Mapping[str, str]) -> list[str]:
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        **settings,
    }
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout.splitlines()
