"""A DAG for a role that is nobody's and not there."""

from datetime import UTC, datetime

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

START = datetime(2026, 1, 1, tzinfo=UTC)
with DAG("ghost", schedule=None, start_date=START, access_control={"ghost": {"can_read"}}):
    EmptyOperator(task_id="t")
