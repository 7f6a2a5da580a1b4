"""DAG bundles: where Airflow finds DAG files, each version of them for as long as runs need it."""
