"""The environment half of the trainer contract."""

import os
from dataclasses import dataclass
from pathlib import Path

from trainyard_trainer.errors import BadConfig


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
        )


def _positive(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdigit() or int(text) < 1:
        raise BadConfig(f"{name} is {text!r}; use a whole number of at least 1")
    return int(text)
