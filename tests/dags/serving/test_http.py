"""What a deploy asks MLflow and the model server, and which of their answers are final."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from trainyard import mlflow_client
from trainyard.failures import Cause
from trainyard.serving.http import ModelServer, NoAnswer, resolve_version
from trainyard.serving.manifests import DeployFailed

FOUND: dict[str, Any] = {"model_version": {"name": "fraud", "version": "3"}}
QUOTED = "the upstream said HTTP 400 and HTTP 404"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_client, "PATIENCE_SECONDS", 10)
    monkeypatch.setattr(mlflow_client, "FIRST_PAUSE_SECONDS", 0)


def asked(answers: list[tuple[int, Any]], ask: Callable[[str], Awaitable[Any]]) -> tuple[Any, int]:
    """What `ask` makes of a server with these answers, one a request, and how many were left."""

    async def handle(_: web.Request) -> web.Response:
        status, body = answers.pop(0)
        return web.json_response(body, status=status)

    async def serve() -> Any:
        app = web.Application()
        app.router.add_get("/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return await ask(f"http://127.0.0.1:{runner.addresses[0][1]}")
        except (NoAnswer, DeployFailed) as error:
            return error
        finally:
            await runner.cleanup()

    return asyncio.run(serve()), len(answers)


def resolved(*answers: tuple[int, Any], version: str = "champion") -> tuple[Any, int]:
    return asked(list(answers), lambda url: resolve_version(url, "fraud", version))


@pytest.mark.parametrize("status", [401, 403, 408, 409, 429, 500, 503])
def test_mlflow_is_asked_again_while_its_answer_may_change(status: int) -> None:
    assert resolved((status, QUOTED), (200, FOUND)) == ("3", 0)


@pytest.mark.parametrize("status", [400, 404])
def test_what_mlflow_does_not_have_is_final(status: int) -> None:
    failed, left = resolved((status, "no such alias"), (200, FOUND))
    assert (failed.cause, failed.retry, left) == (Cause.BAD_CONFIG, False, 1)
    assert "no version or alias 'champion': http://127.0.0.1:" in failed.message
    assert f"HTTP {status}" in failed.message


def test_a_registry_that_never_answers_is_a_temporary_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_client, "PATIENCE_SECONDS", -1)
    failed, _ = resolved((429, QUOTED))
    assert (failed.cause, failed.retry) == (Cause.TEMPORARY, True)


def test_only_a_404_says_that_a_model_has_no_example() -> None:
    assert asked([(404, "none")], lambda url: ModelServer(url).example()) == (None, 0)
    error, _ = asked([(500, QUOTED)], lambda url: ModelServer(url).example())
    assert isinstance(error, NoAnswer) and error.status == 500


def test_a_server_that_is_not_there_has_no_status() -> None:
    error, _ = asked([], lambda _: ModelServer("http://127.0.0.1:1").version())
    assert isinstance(error, NoAnswer) and error.status is None
