"""The environment of a model server."""

import os
from dataclasses import dataclass

from trainyard_trainer.errors import BadConfig


@dataclass(frozen=True)
class Settings:
    """Which model version is served, and where."""

    tracking_uri: str
    model: str
    version: str
    port: int

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the environment. Raises BadConfig naming the variable."""
        version = _required("TRAINYARD_MODEL_VERSION")
        if not version.isdigit():
            raise BadConfig(
                f"TRAINYARD_MODEL_VERSION is {version!r}; pin a version number: "
                "an alias may move under a running server"
            )
        port = os.environ.get("TRAINYARD_PORT") or "8080"
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise BadConfig(f"TRAINYARD_PORT is {port!r}; use a port number")
        return cls(_required("MLFLOW_TRACKING_URI"), _required("TRAINYARD_MODEL"), version, int(port))


def _required(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise BadConfig(f"{name} is not set")
    return value
