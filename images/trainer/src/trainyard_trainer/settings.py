"""The environment half of the trainer contract."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainyard_trainer.errors import BadConfig

# A run key becomes part of paths, of an MLflow filter and of the name of the MLflow run.
RUN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:=@-]{0,249}")
RUN_KEY_RULE = "use at most 250 of A-Z a-z 0-9 . _ + : = @ -"
_TAGS = {
    "TRAINYARD_FALLBACK": "trainyard.fallback",
    "TRAINYARD_GPU_POOL": "trainyard.gpu_pool",
    "TRAINYARD_AIRFLOW_URL": "trainyard.airflow_url",
    "TRAINYARD_USER": "mlflow.user",
}


@dataclass(frozen=True)
class Settings:
    """What the platform tells every step through the environment."""

    tracking_uri: str
    experiment: str
    tracking_patience: float  # seconds to wait for an MLflow that does not answer
    mlflow_run_id: str  # "" = find by the run key, or create
    checkpoint_dir: Path
    checkpoint_freq: int  # epochs
    device: str  # "cpu" or "cuda"
    attempt: int  # 1 for the first
    git_commit: str  # "" = unknown
    batch_divisor: int  # parts in which each batch is done, to need less memory
    parent_run_key: str  # "" = the MLflow run has no parent
    tags: Mapping[str, str]  # of the MLflow run: where, why and for whom it runs

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the environment. Raises BadConfig naming the variable."""
        tracking_uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not tracking_uri:
            raise BadConfig("MLFLOW_TRACKING_URI is not set; every step records itself in MLflow")
        device = os.environ.get("TRAINYARD_DEVICE") or "cpu"
        if device not in ("cpu", "cuda"):
            raise BadConfig(f"TRAINYARD_DEVICE is {device!r}; use cpu or cuda")
        return cls(
            tracking_uri=tracking_uri,
            experiment=os.environ.get("MLFLOW_EXPERIMENT_NAME") or "trainyard",
            tracking_patience=_positive("TRAINYARD_TRACKING_PATIENCE", 120),
            mlflow_run_id=os.environ.get("MLFLOW_RUN_ID", ""),
            checkpoint_dir=Path(os.environ.get("CHECKPOINT_DIR") or "/checkpoints"),
            checkpoint_freq=_positive("CHECKPOINT_FREQ", 5),
            device=device,
            attempt=_positive("TRAINYARD_ATTEMPT", 1),
            git_commit=os.environ.get("GIT_COMMIT", ""),
            batch_divisor=_positive("TRAINYARD_BATCH_DIVISOR", 1),
            parent_run_key=_parent_run_key(),
            tags={tag: value for name, tag in _TAGS.items() if (value := os.environ.get(name))},
        )


def _positive(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdigit() or int(text) < 1:
        raise BadConfig(f"{name} is {text!r}; use a whole number of at least 1")
    return int(text)


def _parent_run_key() -> str:
    key = os.environ.get("TRAINYARD_PARENT_RUN_KEY", "")
    if key and not RUN_KEY.fullmatch(key):
        raise BadConfig(f"TRAINYARD_PARENT_RUN_KEY is {key!r}; {RUN_KEY_RULE}")
    return key
