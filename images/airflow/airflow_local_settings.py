"""Airflow imports this in every process: it makes each of them read model files (dags/models/*.yaml)."""

from trainyard.factory.importer import install

install()
__all__: list[str] = []  # Airflow would take every name here for a setting
