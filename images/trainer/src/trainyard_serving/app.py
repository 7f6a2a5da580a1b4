"""MLflow's scoring protocol, and what a platform asks of a server beside it.

POST /invocations   predict: {"inputs": ...}, {"instances": ...}, {"dataframe_split": ...}, CSV
GET  /ping          the process answers
GET  /ready         the model is loaded and has answered its own example
GET  /version       {"model": ..., "version": ..., "mlflow": ...}
GET  /example       a request which /invocations answers; 404 where the model came without
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from trainyard_trainer import log

from trainyard_serving.model import Model

VERSION_HEADER = b"trainyard-model-version"
MAX_BODY_BYTES = 32 * 1024 * 1024  # a body is held in memory, several times over as JSON
_PROBES = {"/ping", "/ready"}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def create(model: Model) -> App:
    """Make the application that serves a model, which has been loaded and tried: it is ready at once."""
    import mlflow
    from mlflow.pyfunc import scoring_server

    app = FastAPI(openapi_url=None)

    @app.get("/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"model": model.name, "version": model.version, "mlflow": mlflow.__version__}

    @app.get("/example")
    async def example() -> JSONResponse:
        if model.example is None:
            return JSONResponse({"error": "the model came without an example"}, status_code=404)
        return JSONResponse(model.example)

    app.mount("/", scoring_server.init(model.pyfunc))
    return _Front(app, model.version)


class _Front:
    """Names the version in every answer, refuses what is too large, logs a line for each request."""

    def __init__(self, app: App, version: str) -> None:
        self._app = app
        self._header = (VERSION_HEADER, version.encode())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), self._header]}
            await send(message)

        refusal = _refusal(scope)
        try:
            await (refusal or self._app)(scope, receive, answer)
        finally:
            if scope["path"] not in _PROBES:
                seconds = round(time.perf_counter() - started, 4)
                log.event("request", path=scope["path"], status=status, seconds=seconds)


def _refusal(scope: Message) -> JSONResponse | None:
    """The answer to a body that is too large or does not say how large it is."""
    if scope["method"] != "POST":
        return None
    length = dict(scope["headers"]).get(b"content-length", b"")
    if not length.isdigit():
        return JSONResponse({"error": "send a Content-Length"}, status_code=411)
    if int(length) > MAX_BODY_BYTES:
        text = f"the body has {int(length)} bytes, at most {MAX_BODY_BYTES} are taken; send fewer rows"
        return JSONResponse({"error": text}, status_code=413)
    return None
