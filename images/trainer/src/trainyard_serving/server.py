"""The server process: load the model, serve until SIGTERM, then finish the running requests.

The port is opened only after the smoke test, so a server that responds is ready. Exit codes are those of the
trainer: BAD_CONFIG and BAD_DATA mean that a restart cannot help (no such version, a broken artifact).
"""

import logging
import os

from trainyard_contract import ExitCode
from trainyard_trainer import log
from trainyard_trainer.errors import CodeError, TrainerError

from trainyard_serving import app, model
from trainyard_serving.settings import Settings

DRAIN_SECONDS = 30  # for the requests that run at SIGTERM
_ENVIRONMENT = {
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def main() -> int:
    """Serve until SIGTERM; return the exit code."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    log.configure()
    try:
        settings = Settings.from_environment()
        serve(settings, model.load(settings))
    except TrainerError as error:
        return _failed(str(error), error.exit_code)
    except Exception as error:
        return _failed(f"{type(error).__name__}: {error}", CodeError.exit_code, traceback=True)
    return ExitCode.DONE


def _failed(message: str, exit_code: ExitCode, *, traceback: bool = False) -> int:
    code = int(exit_code)
    log.event("failed", level=logging.ERROR, traceback=traceback, error=message, exit_code=code)
    return code


def serve(settings: Settings, loaded: model.Model) -> None:
    """Serve requests until SIGTERM; then finish those that run, and accept no more."""
    import uvicorn

    config = uvicorn.Config(
        app.create(loaded),
        host="0.0.0.0",
        port=settings.port,
        log_config=None,  # uvicorn's loggers use the JSON format of this process
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    log.event("serving", model=loaded.name, version=loaded.version, port=settings.port)
    uvicorn.Server(config).run()
    log.event("stopped", model=loaded.name, version=loaded.version)
