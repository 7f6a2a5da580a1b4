"""A real MLflow registry, in which each test has a model of its own."""

from __future__ import annotations

import re

import mlflow
import pytest


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    # The tests share the server and have a model each.
    return re.sub(r"[^A-Za-z0-9._-]+", "-", request.node.name)


@pytest.fixture
def client(mlflow_uri: str) -> mlflow.MlflowClient:
    """MLflow's own client, as a witness."""
    return mlflow.MlflowClient(mlflow_uri, mlflow_uri)
