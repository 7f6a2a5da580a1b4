"""Serves one registered model version over HTTP, in the image that trained it."""
