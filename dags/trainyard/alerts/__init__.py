"""Alerts: what people should hear of, who hears it, and the callbacks of DAGs."""
