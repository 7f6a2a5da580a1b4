"""The model registry: gate, register, approve, promote."""
