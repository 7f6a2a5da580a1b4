"""The HTTP API: MLflow's scoring protocol, and what the platform needs in addition.

POST /invocations   predict: {"inputs": ...}, {"instances": ...}, {"dataframe_split": ...}, CSV
GET  /ping          200 while the process runs
GET  /ready         200 when the model is loaded and has passed its smoke test
GET  /version       {"model": ..., "version": ..., "mlflow": ...}
GET  /example       a valid request for /invocations; 404 when the model has none
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from trainyard_contract import VERSION_HEADER, ServingPath
from trainyard_trainer import log

from trainyard_serving.model import Model

MAX_BODY_BYTES = 32 * 1024 * 1024  # a body is held in memory, as JSON several times its size
_PROBES = {ServingPath.PING, ServingPath.READY}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def create(model: Model) -> App:
    """Return the application for a model that is loaded and tested: it is ready at once."""
    import mlflow
    from mlflow.pyfunc import scoring_server

    app = FastAPI(openapi_url=None)

    @app.get(ServingPath.READY)
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.get(ServingPath.VERSION)
    async def version() -> dict[str, str]:
        return {"model": model.name, "version": model.version, "mlflow": mlflow.__version__}

    @app.get(ServingPath.EXAMPLE)
    async def example() -> JSONResponse:
        if model.example is None:
            return JSONResponse({"error": "the model has no example"}, status_code=404)
        return JSONResponse(model.example)

    app.mount("/", scoring_server.init(model.pyfunc))
    return _Middleware(app, model.version)


class _Middleware:
    """Adds the version header to every response, rejects large bodies, and logs each request."""

    def __init__(self, app: App, version: str) -> None:
        self._app = app
        self._header = (VERSION_HEADER.encode(), version.encode())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, status = time.perf_counter(), 500

        async def respond(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), self._header]}
            await send(message)

        rejection = _rejection(scope)
        try:
            await (rejection or self._app)(scope, receive, respond)
        finally:
            if scope["path"] not in _PROBES:
                seconds = round(time.perf_counter() - started, 4)
                log.event("request", path=scope["path"], status=status, seconds=seconds)


def _rejection(scope: Message) -> JSONResponse | None:
    """Return the response to a body that is too large or has no Content-Length; None for any other."""
    if scope["method"] != "POST":
        return None
    length = dict(scope["headers"]).get(b"content-length", b"")
    if not length.isdigit():
        return JSONResponse({"error": "send a Content-Length"}, status_code=411)
    if int(length) > MAX_BODY_BYTES:
        text = f"the body has {int(length)} bytes, at most {MAX_BODY_BYTES} are accepted; send fewer rows"
        return JSONResponse({"error": text}, status_code=413)
    return None
