"""Ends the Jobs and pods that no task waits for any more: `python -m trainyard.reconciler`."""
