"""Hyperparameter search: the settings to try and what became of each trial."""
