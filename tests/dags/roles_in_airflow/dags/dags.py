"""DAGs of two teams and of none; one names roles itself."""

from datetime import UTC, datetime

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

OWN = {"vision_train": {"auditors": {"can_read"}, "text": {"can_read"}}}
for name in ("vision_train", "text_train", "alone"):
    with DAG(name, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), access_control=OWN.get(name)):
        EmptyOperator(task_id="t")
