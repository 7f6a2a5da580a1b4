"""The environment of a model server, checked."""

import os
from dataclasses import dataclass

from trainyard_contract import Env, ServingEnv
from trainyard_trainer.errors import BadConfig


@dataclass(frozen=True)
class Settings:
    """The model version to serve, and the port."""

    tracking_uri: str
    model: str
    version: str
    port: int

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the environment. Raises BadConfig naming the variable."""
        version = _required(ServingEnv.MODEL_VERSION)
        if not version.isdigit():
            raise BadConfig(
                f"{ServingEnv.MODEL_VERSION} is {version!r}; pin a version number: "
                "an alias can change while the server runs"
            )
        port = os.environ.get(ServingEnv.PORT) or "8080"
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise BadConfig(f"{ServingEnv.PORT} is {port!r}; use a port number")
        return cls(_required(Env.TRACKING_URI), _required(ServingEnv.MODEL), version, int(port))


def _required(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise BadConfig(f"{name} is not set")
    return value
