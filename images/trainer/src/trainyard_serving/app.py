"""The HTTP API: MLflow's scoring protocol, and what the platform needs in addition.

POST /invocations   predict: {"inputs": ...}, {"instances": ...}, {"dataframe_split": ...}, CSV with a header
                    400 no JSON; 422 not what the model's signature says; 500 the model fails;
                    503 busy, with Retry-After; 504 not answered in MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
                    seconds, 60 by default
GET  /ping          200 while the process runs
GET  /ready         200 when the model is loaded and has passed its smoke test
GET  /version       {"model": ..., "version": ..., "mlflow": ...}
GET  /example       a valid request for /invocations; 404 when the model has none
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from io import BytesIO
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from trainyard_contract import VERSION_HEADER, ServingPath
from trainyard_trainer import log

from trainyard_serving.model import Model, cause_of

MAX_BODY_BYTES = 32 * 1024 * 1024  # a body is held in memory, as JSON several times its size
AT_ONCE = 32  # requests; those above asyncio's number of threads (CPUs + 4) wait for one
_MODEL_FAILED = "unexpected error while evaluating the model"  # as MLflow says it
_SEE_LOG = {"error": "the model failed; the cause is in the server's log"}
_PROBES = {ServingPath.PING, ServingPath.READY}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class _NoTable(ValueError):
    """A body that is no CSV."""


def create(model: Model) -> App:
    """Return the application for a model that is loaded and tested: it is ready at once."""
    import mlflow
    from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT

    app = FastAPI(openapi_url=None)
    schema = model.pyfunc.metadata.get_input_schema()
    patience = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
    running: set[asyncio.Task[Response]] = set()

    async def answer(request: Request) -> Response:
        body, content_type = await request.body(), request.headers.get("content-type", "")
        return await asyncio.to_thread(_answer, model.pyfunc, schema, body, content_type)

    @app.get(ServingPath.PING)
    async def ping() -> dict[str, bool]:
        return {"alive": True}

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

    @app.post(ServingPath.INVOCATIONS)
    async def invocations(request: Request) -> Response:
        if len(running) >= AT_ONCE:
            text = f"{AT_ONCE} requests are being answered; try again, or deploy more replicas"
            return JSONResponse({"error": text}, status_code=503, headers={"Retry-After": "1"})
        task = asyncio.create_task(answer(request))
        running.add(task)  # until it ends: nothing can end a thread that computes
        task.add_done_callback(running.discard)
        await asyncio.wait([task], timeout=patience)
        if task.done():
            return task.result()
        text = f"not answered within {patience} s; send fewer rows, or deploy more replicas"
        return JSONResponse({"error": text}, status_code=504)

    return _Middleware(app, model.version)


def _answer(pyfunc: Any, schema: Any, body: bytes, content_type: str) -> Response:
    """Predict what a body says. An error tells the client what is wrong with it, no more."""
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    data, data_type = body, content_type
    try:
        if content_type.startswith("text/csv") and schema is not None and schema.is_tensor_spec():
            data, data_type = _json_of_csv(body), "application/json"
        answer = scoring_server.invocations(data, data_type, pyfunc, schema)
    except MlflowException as error:
        if cause := cause_of(error):
            log.warning("prediction_failed", reason=cause)
        if schema is not None and _MODEL_FAILED in error.message:  # on what its signature allows
            return JSONResponse(_SEE_LOG, status_code=500)
        # MLflow puts the whole input before what is wrong with it.
        text = error.message.rpartition("Error: ")[2]
        return JSONResponse({"error": text}, status_code=422 if _is_json(body, content_type) else 400)
    except _NoTable as error:
        return JSONResponse({"error": str(error)}, status_code=422)
    except Exception as error:
        log.event("prediction_failed", level=logging.ERROR, traceback=True, reason=str(error))
        return JSONResponse(_SEE_LOG, status_code=500)
    if answer.status != HTTPStatus.OK:
        return JSONResponse({"error": answer.response}, status_code=answer.status)
    return Response(answer.response, media_type=answer.mimetype)


def _json_of_csv(body: bytes) -> bytes:
    """Return a CSV as MLflow's JSON, for a tensor: of a CSV, MLflow makes columns. Raises _NoTable."""
    import pandas

    try:
        return json.dumps({"inputs": pandas.read_csv(BytesIO(body)).to_numpy().tolist()}).encode()
    except ValueError as error:
        raise _NoTable(f"no CSV with a header: {error}") from error


def _is_json(body: bytes, content_type: str) -> bool:
    """Whether a body is what its type says; of other types than JSON nothing is known."""
    if "json" not in content_type:
        return True
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


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
