"""The base of tasks that start and end in the triggerer, and their templates."""
