"""Airflow's database, read without Airflow: its imports would cost 200 MiB for one query."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from uuid import UUID

from sqlalchemy import NullPool, String, Uuid, column, create_engine, make_url, select, table

# How long libpq waits for a server that does not answer, or has gone without a word.
PATIENCE = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
CONNECTION = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
_TASK_INSTANCE = table("task_instance", column("id", Uuid), column("state", String))


class Database:
    """The tries of task instances in the database that AIRFLOW__DATABASE__SQL_ALCHEMY_CONN names."""

    def __init__(self, url: str | None = None) -> None:
        found = make_url(url or os.environ[CONNECTION])
        patience = PATIENCE if found.get_backend_name() == "postgresql" else {}
        # One query in several seconds: a connection that is kept would only be one more.
        self._engine = create_engine(found, poolclass=NullPool, connect_args=patience)

    def states(self, tries: Iterable[UUID]) -> Mapping[UUID, str]:
        """The states of these tries, "" where there is none yet; a try that has gone is left out.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database does not answer.
        """
        asked = select(_TASK_INSTANCE.c.id, _TASK_INSTANCE.c.state).where(
            _TASK_INSTANCE.c.id.in_(sorted(tries))
        )
        with self._engine.connect() as connection:
            return {row.id: row.state or "" for row in connection.execute(asked)}
