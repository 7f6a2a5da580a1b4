"""Waiting for objects in an object store."""
