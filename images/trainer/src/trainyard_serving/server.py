"""The process: load the model, serve until SIGTERM, finish what was begun.

The port opens only when the model has proven itself, so a server that answers at all is ready. Exit codes
are the trainer's: 64 and 65 say that no other attempt will do better (no such version, a broken artifact).
"""

import logging
import os

from trainyard_trainer import log
from trainyard_trainer.errors import CodeError, TrainerError

from trainyard_serving import app, model
from trainyard_serving.settings import Settings

DRAIN_SECONDS = 30  # for requests under way at SIGTERM
_ENVIRONMENT = {
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def main() -> int:
    """Serve until told to stop; return the exit code."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    log.configure()
    try:
        settings = Settings.from_environment()
        serve(settings, model.load(settings))
    except TrainerError as error:
        log.event("failed", level=logging.ERROR, error=str(error), exit_code=error.exit_code)
        return error.exit_code
    except Exception as error:
        log.event("failed", level=logging.ERROR, traceback=True, error=f"{type(error).__name__}: {error}")
        return CodeError.exit_code
    return 0


def serve(settings: Settings, loaded: model.Model) -> None:
    """Answer requests until SIGTERM; then those under way are finished and no more are taken."""
    import uvicorn

    config = uvicorn.Config(
        app.create(loaded),
        host="0.0.0.0",
        port=settings.port,
        log_config=None,  # the process's own, JSON
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    log.event("serving", model=loaded.name, version=loaded.version, port=settings.port)
    uvicorn.Server(config).run()
    log.event("stopped", model=loaded.name, version=loaded.version)
