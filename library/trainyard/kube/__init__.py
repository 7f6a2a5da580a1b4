"""The Kubernetes API for triggers: clients, helpers that read objects, container logs."""
