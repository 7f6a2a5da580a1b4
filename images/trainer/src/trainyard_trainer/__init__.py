"""Trainyard's trainer: one command line, `trainer <step>`, for all models."""
