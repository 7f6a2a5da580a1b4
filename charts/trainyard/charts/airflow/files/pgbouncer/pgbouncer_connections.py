"""How Airflow's asynchronous engine connects where PgBouncer is between it and the database.

PgBouncer gives each transaction any connection of its pool, so a prepared statement may be unknown there, or
be another client's of the same name. One without a name is prepared anew each time, within the transaction.
"""

from __future__ import annotations

from typing import Any


def no_name() -> str:
    """Return the name of the next prepared statement."""
    return ""


# For [database] sql_alchemy_connect_args_async. The first is asyncpg's, the others are SQLAlchemy's.
ASYNC: dict[str, Any] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": no_name,
}
