"""The environment of a step, checked."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainyard_contract import DEVICES, RUN_KEY, RUN_KEY_RULE, Env, Tag

from trainyard_trainer import storage
from trainyard_trainer.errors import BadConfig
from trainyard_trainer.storage import Directory, LocalDirectory

_TAGS = {
    Env.FALLBACK: Tag.FALLBACK,
    Env.GPU_POOL: Tag.GPU_POOL,
    Env.AIRFLOW_URL: Tag.AIRFLOW_URL,
    Env.USER: Tag.USER,
}
_MADE_OF = {
    Tag.GIT_COMMIT: Env.GIT_COMMIT,
    Tag.SOURCE_COMMIT: Env.GIT_COMMIT,
    Tag.DAG_VERSION: Env.DAG_VERSION,
}


@dataclass(frozen=True)
class Settings:
    """What the platform passes to every step through the environment."""

    tracking_uri: str
    experiment: str
    tracking_patience: float  # seconds for which a call is retried while MLflow does not respond
    mlflow_run_id: str  # "" = find it by the run key, or create it
    checkpoint_dir: Directory
    checkpoint_freq: int  # epochs
    device: str  # one of DEVICES
    attempt: int  # 1 for the first
    git_commit: str  # that this image was made from; "" = unknown
    batch_divisor: int  # parts in which each batch is computed, to need less memory
    parent_run_key: str  # "" = the MLflow run has no parent
    tags: Mapping[str, str]  # of the MLflow run: where, why and for whom it runs
    made_of: Mapping[str, str]  # more of them, of the step that makes the model alone: of what code

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the environment. Raises BadConfig naming the variable."""
        tracking_uri = os.environ.get(Env.TRACKING_URI, "")
        if not tracking_uri:
            raise BadConfig(f"{Env.TRACKING_URI} is not set; every step logs to MLflow")
        device = os.environ.get(Env.DEVICE) or DEVICES[0]
        if device not in DEVICES:
            raise BadConfig(f"{Env.DEVICE} is {device!r}; use {' or '.join(DEVICES)}")
        return cls(
            tracking_uri=tracking_uri,
            experiment=os.environ.get(Env.EXPERIMENT) or "trainyard",
            tracking_patience=positive_number(Env.TRACKING_PATIENCE, 180),
            mlflow_run_id=os.environ.get(Env.MLFLOW_RUN_ID, ""),
            checkpoint_dir=_checkpoint_dir(),
            checkpoint_freq=positive_number(Env.CHECKPOINT_FREQ, 5),
            device=device,
            attempt=positive_number(Env.ATTEMPT, 1),
            git_commit=os.environ.get(Env.GIT_COMMIT, ""),
            batch_divisor=positive_number(Env.BATCH_DIVISOR, 1),
            parent_run_key=_parent_run_key(),
            tags={tag: value for name, tag in _TAGS.items() if (value := os.environ.get(name))},
            made_of={tag: value for tag, name in _MADE_OF.items() if (value := os.environ.get(name))},
        )


def number(name: str, default: int, *, minimum: int = 0) -> int:
    """Read a whole number from the environment. Raises BadConfig naming the variable."""
    text = os.environ.get(name) or str(default)
    if not text.isdigit() or int(text) < minimum:
        raise BadConfig(f"{name} is {text!r}; use a whole number of at least {minimum}")
    return int(text)


def positive_number(name: str, default: int) -> int:
    """Read a whole number of at least 1 from the environment. Raises BadConfig naming the variable."""
    return number(name, default, minimum=1)


def _checkpoint_dir() -> Directory:
    """Read the directory of the checkpoints: a path on a volume, or a URI."""
    text = os.environ.get(Env.CHECKPOINT_DIR) or "/checkpoints"
    return storage.directory(text) if "://" in text else LocalDirectory(Path(text))


def _parent_run_key() -> str:
    key = os.environ.get(Env.PARENT_RUN_KEY, "")
    if key and not RUN_KEY.fullmatch(key):
        raise BadConfig(f"{Env.PARENT_RUN_KEY} is {key!r}; {RUN_KEY_RULE}")
    return key
