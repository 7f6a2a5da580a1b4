"""Fast checks against Airflow's metadata database: its schema version, and the heartbeat of a component.

Airflow has commands for both, but each needs 2-3 CPU-seconds for imports. This script imports only the
database driver. Usage:

    database.py wait-for-migrations SECONDS
    database.py check-heartbeat JOB_TYPE MAX_AGE_SECONDS

The database is AIRFLOW__DATABASE__SQL_ALCHEMY_CONN. Exit codes: 0 success, 1 failure, 2 wrong usage.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import sysconfig
import time
from pathlib import Path

import psycopg2
from psycopg2.extensions import connection as Connection

# Directory of a package's migrations -> table with the current revision of the database.
VERSION_TABLES = {
    "airflow/migrations/versions": "alembic_version",
    "airflow/providers/fab/migrations/versions": "alembic_version_fab",
}
REVISION = re.compile(r"""^(down_)?revision(?::[^=]+)?\s*=\s*["'](\w+)["']""", re.MULTILINE)


def connect() -> Connection:
    """Connect to the database; SQLAlchemy's URL scheme `postgresql+driver` becomes `postgresql`."""
    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    return psycopg2.connect(re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url), connect_timeout=5)


def newest_revision(versions: Path) -> str:
    """Return the head revision of a folder of Alembic migrations."""
    revisions: set[str] = set()
    revised: set[str] = set()
    for path in versions.glob("*.py"):
        for down, revision in REVISION.findall(path.read_text()):
            (revised if down else revisions).add(revision)
    (head,) = revisions - revised
    return head


def missing_migrations(expected: dict[str, str]) -> list[str]:
    """Return a message for each table whose revision differs from the expected one."""
    differences = []
    with connect() as connection, connection.cursor() as cursor:
        for table, head in expected.items():
            cursor.execute("SELECT to_regclass(%s)", (table,))
            found = None
            if cursor.fetchone()[0]:
                cursor.execute(f"SELECT version_num FROM {table}")
                found = cursor.fetchone()
            if found != (head,):
                current = found[0] if found else "no revision"
                differences.append(f"{table} is at {current}, this image needs {head}")
    return differences


def expected_revisions() -> dict[str, str]:
    """Return the revision that this image needs, for each version table."""
    site_packages = Path(sysconfig.get_paths()["purelib"])
    return {
        table: newest_revision(site_packages / folder)
        for folder, table in VERSION_TABLES.items()
        if (site_packages / folder).is_dir()
    }


def wait_for_migrations(seconds: float) -> int:
    """Wait until the database is at the revisions that this image needs."""
    expected = expected_revisions()
    deadline = time.monotonic() + seconds
    reported = ""
    while True:
        try:
            problem = "; ".join(missing_migrations(expected))
        except psycopg2.OperationalError as error:
            problem = f"cannot connect to the database: {error}".strip()
        if not problem:
            return 0
        if problem != reported:
            print(f"waiting: {problem}", flush=True)
            reported = problem
        if time.monotonic() > deadline:
            print("timed out; see the log of the Job `...-migrate-database-...`", flush=True)
            return 1
        time.sleep(1)


def check_heartbeat(job_type: str, max_age: float) -> int:
    """Check that the latest job of this type on this host has a heartbeat of at most max_age seconds ago."""
    query = """SELECT extract(epoch FROM now() - latest_heartbeat) FROM job
               WHERE job_type = %s AND hostname = %s ORDER BY latest_heartbeat DESC LIMIT 1"""
    try:
        with connect() as connection, connection.cursor() as cursor:
            cursor.execute(query, (job_type, socket.gethostname()))
            row = cursor.fetchone()
    except psycopg2.OperationalError as error:
        # Restarting this component would not repair the database.
        print(f"cannot check the heartbeat without the database: {error}")
        return 0
    if row is None or row[0] > max_age:
        print(f"{job_type}: " + ("no heartbeat yet" if row is None else f"last heartbeat {row[0]:.0f} s ago"))
        return 1
    return 0


def main(arguments: list[str]) -> int:
    """Run one of the commands of the module's docstring."""
    match arguments:
        case ["wait-for-migrations", seconds]:
            return wait_for_migrations(float(seconds))
        case ["check-heartbeat", job_type, max_age]:
            return check_heartbeat(job_type, float(max_age))
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
