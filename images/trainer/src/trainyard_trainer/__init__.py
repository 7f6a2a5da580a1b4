"""Trainyard's trainer: one command line, `trainer <step>`, behind which every model trains alike."""
