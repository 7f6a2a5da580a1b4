"""Alerts: their content, their receivers, and the callbacks of DAGs that send them."""
