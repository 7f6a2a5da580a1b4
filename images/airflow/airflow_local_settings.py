"""Airflow imports this in every process.

It makes each of them read model files (dags/models/*.yaml), and lets tasks that end in the triggerer report
their assets.
"""

from trainyard.airflow_compat import extend_triggers
from trainyard.factory.importer import install

install()
extend_triggers()
__all__: list[str] = []  # Airflow would take every name here for a setting
