"""Refuse a backup whose tables this image does not know: check_schema.py NAME, a database of the backup.

Each version of Airflow and of MLflow brings the migrations that led to its tables, one file each. Tables of
an older version are brought up to date after the restore; there is no way back from a newer one. Standard
library only: to import Airflow would take seconds, and a database.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

WORK = Path("/work")
# Database -> table with its version -> where the migrations lie among the Python packages.
MIGRATIONS = {
    "airflow": {
        "alembic_version": "airflow/migrations/versions",
        "alembic_version_fab": "airflow/providers/fab/migrations/versions",
    },
    "mlflow": {
        "alembic_version": "mlflow/store/db_migrations/versions",
        "alembic_version_auth": "mlflow/server/auth/db/migrations/versions",
    },
}
REVISION = re.compile(r"^revision(?:\s*:\s*str)?\s*=\s*[\"']([^\"']+)", re.MULTILINE)


def known_revisions(directory: str) -> set[str] | None:
    """Return the revisions of these migrations, None where no package has such a directory."""
    found = [Path(root) / directory for root in sys.path if (Path(root) / directory).is_dir()]
    if not found:
        return None
    texts = (file.read_text(encoding="utf-8") for file in found[0].glob("*.py"))
    return {match for text in texts for match in REVISION.findall(text)}


def problems(database: str, revisions: dict[str, str]) -> list[str]:
    """Return what of the tables is unknown here; ``revisions`` are those of the backup, by table."""
    found = []
    for table, directory in MIGRATIONS[database].items():
        known = known_revisions(directory)
        if table in revisions and known is not None and revisions[table] not in known:
            found.append(f"{table} is {revisions[table]}")
    return found


def main(database: str) -> int:
    """Check one database; the exit code is 1 for tables that are unknown."""
    lines = (WORK / f"{database}.revisions").read_text().splitlines()
    found = problems(database, dict(line.split() for line in lines))
    if found:
        print(f"error: the backup's {database} is of a newer version than the release ({', '.join(found)})")
        print(
            f"  cure: upgrade the release to the version that made the backup, at least its {database} image"
        )
        return 1
    print(f"database {database}: the release knows its version", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
