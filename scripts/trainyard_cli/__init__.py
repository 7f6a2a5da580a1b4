"""Trainyard's command line: ./scripts/up, down, test and run."""
