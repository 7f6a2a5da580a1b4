"""Kubernetes over HTTP for triggers: clients, readers of objects, logs."""
