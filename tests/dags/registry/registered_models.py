"""Models of a real MLflow registry, and the registry's functions on them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import mlflow
from trainyard.mlflow_client import MlflowClient
from trainyard.registry import client as registry
from trainyard.registry.client import Champion, decide


def ask(
    client: mlflow.MlflowClient, function: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any
) -> Any:
    """What one of the registry's functions returns for the server of `client`."""

    async def call() -> Any:
        async with MlflowClient(client.tracking_uri) as ours:
            return await function(ours, *args, **kwargs)

    return asyncio.run(call())


def promote(client: mlflow.MlflowClient, **kwargs: Any) -> registry.Promotion:
    return ask(client, registry.promote, **kwargs)


def champion_of(client: mlflow.MlflowClient, *args: Any) -> Champion | None:
    return ask(client, registry.champion_of, *args)


def trained(client: mlflow.MlflowClient, f1: float) -> dict[str, str]:
    """A finished run with a logged model, as the trainer leaves it."""
    found = client.get_experiment_by_name("tests")
    experiment = found.experiment_id if found else client.create_experiment("tests")
    run_id = client.create_run(experiment).info.run_id
    client.log_metric(run_id, "f1_macro", f1)
    logged = client.create_logged_model(experiment, name="model", source_run_id=run_id)
    client.finalize_logged_model(logged.model_id, "READY")
    return {"model_uri": f"models:/{logged.model_id}", "run_id": run_id}


def run(
    client: mlflow.MlflowClient,
    model: str,
    key: str,
    f1: float,
    about: dict[str, str] | None = None,
) -> Any:
    """Gate and promotion of a new model, or of the one that `about` tells of."""
    about = about or trained(client, f1)
    champion = champion_of(client, model, "f1_macro")
    gate = decide(f1, champion, minimum=0.9, min_improvement=0.005)
    tags = {"f1_macro": f1, "git_commit": "abc", "nothing": None}
    return promote(client, model=model, run_key=key, gate=gate, tags=tags, **about)


def aliases_of(client: mlflow.MlflowClient, model: str) -> dict[str, int]:
    return {alias: int(version) for alias, version in client.get_registered_model(model).aliases.items()}
