"""What is in no render: the pods that Airflow and the DAG library make by what the chart tells them."""

from __future__ import annotations

import json
from pathlib import Path

from render import Object, platform, worker_pod
from trainyard.naming import TaskIdentity
from trainyard.platform import Platform, load_platform
from trainyard.serving.manifests import (
    DeployRequest,
    Record,
    build_deployment,
    build_disruption_budget,
    build_service,
    build_spec,
)
from trainyard.training.pod import TrainingRequest, build_pod

TASK = TaskIdentity("digits", "manual", "train", -1, 1)
REQUEST = TrainingRequest("train", "file:///data/a", "file:///data/b", 60)


def loaded_platform(objects: list[Object], directory: Path) -> Platform:
    """The platform as the DAG library reads it."""
    file = directory / "platform.json"
    file.write_text(json.dumps(platform(objects)))
    return load_platform(file)


def made_at_run_time(objects: list[Object], directory: Path) -> dict[str, Object]:
    """A worker pod, a training pod, and what a model in service consists of, by what they are."""
    of_platform = loaded_platform(objects, directory)
    worker = worker_pod(objects)
    spec = build_spec(of_platform, DeployRequest("digits", "1"))
    return {
        "worker": {**worker, "metadata": {**worker["metadata"], "namespace": "trainyard"}},
        "training": build_pod(of_platform, REQUEST, TASK),
        "model-server": build_deployment(of_platform, "digits", spec, Record("digits", "1", "")),
        "model-service": build_service(of_platform, "digits"),
        "model-budget": build_disruption_budget(of_platform, "digits") or {},
    }
