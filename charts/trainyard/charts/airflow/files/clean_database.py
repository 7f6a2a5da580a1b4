"""Remove what Airflow's database holds of long ago, then the files of XComs that it no longer names.

RETENTION_DAYS says how long ago, DRY_RUN=true only tells what would go. The arguments are those of
`airflow db clean`, which does the work; the newest scheduled run of each DAG stays whatever its age.

An XCom over the threshold is a file, of which the database holds the path. Airflow's command removes the row
alone; and the files of runs that were deleted or cleared are left over as well. A file goes when no XCom
names it, and it is over a day old: a task writes the file before the row.
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
    print(f"removing what is from before {before:%Y-%m-%d %H:%M} UTC", flush=True)
    arguments = ["db", "clean", "--clean-before-timestamp", before.isoformat(), "--yes", *options]
    arguments += ["--error-on-cleanup-failure", *(["--dry-run"] if dry_run else [])]
    parsed = cli_parser.get_parser().parse_args(arguments)
    parsed.func(parsed)


def xcom_folder() -> Path | None:
    """Return where XComs are files; None where they are in the database or an object store."""
    from airflow.configuration import conf

    uri = conf.get("common.io", "xcom_objectstorage_path", fallback="")
    if uri and not uri.startswith("file:///"):
        print(f"XComs under {uri} are left to that store's own rules of expiry", flush=True)
    return Path(uri.removeprefix("file://")) if uri.startswith("file:///") else None


def named_files(folder: Path) -> set[str]:
    """Return the files under the folder that XComs in the database name."""
    path = re.compile(re.escape(f"file://{folder}") + r'[^"\\]*')
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT value::text FROM xcom WHERE strpos(value::text, %s) > 0", (f"file://{folder}",)
        )
        found = [path.search(row[0]) for row in cursor.fetchall()]
    return {match[0].removeprefix("file://") for match in found if match}


def remove_leftovers(folder: Path, named: set[str], dry_run: bool) -> tuple[int, int]:
    """Remove old files that are not named, and directories left empty; return how many files, and bytes."""
    removed = size = 0
    for place, _, names in os.walk(folder, topdown=False):
        for path in (Path(place, name) for name in names):
            try:
                status = path.lstat()
                if str(path) in named or time.time() - status.st_mtime < DAY_SECONDS:
                    continue
                if not dry_run:
                    path.unlink()
            except FileNotFoundError:  # somebody else was faster
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
        removed, size = remove_leftovers(folder, named_files(folder), dry_run)
        print(f"{removed} XCom files, {size} bytes, {'would go' if dry_run else 'are gone'}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
