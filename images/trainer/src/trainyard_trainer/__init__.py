"""Trainyard's trainer: one command line, `trainer <step>`, for all models."""

import os

# For torch, which reads it as it is imported: its C++ code would warn between the JSON lines of the log.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
