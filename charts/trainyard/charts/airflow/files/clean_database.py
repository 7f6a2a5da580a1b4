"""Remove old rows from Airflow's database, then the files of XComs that the database no longer refers to.

RETENTION_DAYS sets the age; with DRY_RUN=true nothing is removed, only reported. The arguments are passed to
`airflow db clean`, which keeps the latest scheduled run of each DAG whatever its age.

An XCom over the size threshold is stored in a file, and its database row holds the path. `airflow db clean`
removes only the row, and so do deleting and clearing a run. A file is removed when no XCom refers to it and
it is more than a day old, because a task writes the file before the row.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import database

DAY_SECONDS = 86_400


def clean_database(retention_days: float, dry_run: bool, options: Iterable[str]) -> None:
    """Run `airflow db clean` in this process. Raises RuntimeError when a table could not be cleaned."""
    from airflow.cli import cli_parser

    before = datetime.now(UTC) - timedelta(days=retention_days)
    print(f"removing rows from before {before:%Y-%m-%d %H:%M} UTC", flush=True)
    arguments = ["db", "clean", "--clean-before-timestamp", before.isoformat(), "--yes", *options]
    arguments += ["--error-on-cleanup-failure", *(["--dry-run"] if dry_run else [])]
    parsed = cli_parser.get_parser().parse_args(arguments)
    parsed.func(parsed)


def xcom_folder() -> Path | None:
    """Return the directory of XCom files; None when XComs are in the database or an object store."""
    from airflow.configuration import conf

    uri = conf.get("common.io", "xcom_objectstorage_path", fallback="")
    if uri and not uri.startswith("file:///"):
        print(f"XComs under {uri} are not removed; use the lifecycle rules of the object store", flush=True)
    return Path(uri.removeprefix("file://")) if uri.startswith("file:///") else None


def referenced_files(folder: Path) -> set[str]:
    """Return the files under the folder that XComs in the database refer to."""
    path = re.compile(re.escape(f"file://{folder}") + r'[^"\\]*')
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT value::text FROM xcom WHERE strpos(value::text, %s) > 0", (f"file://{folder}",)
        )
        found = [path.search(row[0]) for row in cursor.fetchall()]
    return {match[0].removeprefix("file://") for match in found if match}


def remove_unreferenced(folder: Path, referenced: set[str], dry_run: bool) -> tuple[int, int]:
    """Remove old unreferenced files and empty directories; return the numbers of files and bytes."""
    removed = size = 0
    for place, _, names in os.walk(folder, topdown=False):
        for path in (Path(place, name) for name in names):
            try:
                status = path.lstat()
                if str(path) in referenced or time.time() - status.st_mtime < DAY_SECONDS:
                    continue
                if not dry_run:
                    path.unlink()
            except FileNotFoundError:  # another process removed it
                continue
            removed, size = removed + 1, size + status.st_size
        if not dry_run and Path(place) != folder:
            try:
                Path(place).rmdir()
            except OSError:  # not empty
                continue
    return removed, size


def main(options: list[str]) -> None:
    """Clean the database, then the volume."""
    retention_days, dry_run = float(os.environ["RETENTION_DAYS"]), os.environ.get("DRY_RUN") == "true"
    clean_database(retention_days, dry_run, options)
    folder = xcom_folder()
    if folder and folder.is_dir():
        removed, size = remove_unreferenced(folder, referenced_files(folder), dry_run)
        print(
            f"{removed} XCom files, {size} bytes, {'would be removed' if dry_run else 'removed'}", flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1:])
