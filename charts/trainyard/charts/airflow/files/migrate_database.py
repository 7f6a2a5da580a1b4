"""Migrate Airflow's database to the schema of this image and create the admin user, where needed.

Runs Airflow's commands in one process, because importing Airflow costs 5 CPU-seconds. If nothing is to do,
Airflow is not imported. The Secret of ADMIN_USERNAME and ADMIN_PASSWORD is authoritative: when the password
differs, it is reset.
"""

from __future__ import annotations

import os
import time

import database
import psycopg2


def wait_for_server(seconds: float) -> None:
    """Wait until the database accepts connections. Raises psycopg2.OperationalError after a timeout."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            database.connect().close()
            return
        except psycopg2.OperationalError as error:
            if time.monotonic() > deadline:
                raise
            print(f"waiting for the database: {error}".strip(), flush=True)
            time.sleep(2)


def airflow(*arguments: str) -> None:
    """Run an Airflow command in this process."""
    from airflow.cli import cli_parser

    parsed = cli_parser.get_parser().parse_args(arguments)
    parsed.func(parsed)


def stored_password_hash(username: str) -> str | None:
    """Return the hash of a user's password, or None when the user does not exist."""
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT password FROM ab_user WHERE username = %s", (username,))
        row = cursor.fetchone()
        return row[0] if row else None


def ensure_admin(environment: dict[str, str]) -> None:
    """Create the admin user, or reset its password to the one in the Secret."""
    from werkzeug.security import check_password_hash

    username, password = environment["ADMIN_USERNAME"], environment["ADMIN_PASSWORD"]
    stored = stored_password_hash(username)
    if stored is None:
        names = ["--firstname", environment["ADMIN_FIRST_NAME"], "--lastname", environment["ADMIN_LAST_NAME"]]
        contact = ["--email", environment["ADMIN_EMAIL"], "--role", environment["ADMIN_ROLE"]]
        airflow("users", "create", "--username", username, "--password", password, *names, *contact)
    elif not check_password_hash(stored, password):
        airflow("users", "reset-password", "--username", username, "--password", password)
    print(f"user {username} exists", flush=True)


def main() -> None:
    """Migrate, then create the admin user."""
    wait_for_server(300)
    missing = database.missing_migrations(database.expected_revisions())
    for difference in missing:
        print(difference, flush=True)
    if missing:
        airflow("db", "migrate")
    if "ADMIN_USERNAME" in os.environ:
        ensure_admin(dict(os.environ))


if __name__ == "__main__":
    main()
