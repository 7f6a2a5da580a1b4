"""The client of MLflow's REST API: a real server, and one that is in trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from aiohttp import web
from trainyard import mlflow_client
from trainyard.mlflow_client import MlflowClient, MlflowError

FOUND = {"model_version": {"name": "m", "version": "3"}}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_client, "FIRST_PAUSE_SECONDS", 0)


def answered(
    *answers: tuple[int, Any],
    ask: Callable[[MlflowClient], Awaitable[Any]] | None = None,
    user: str = "",
    **options: Any,
) -> tuple[Any, list[web.Request]]:
    """What a request comes to at a server with these answers, one for each time, and the requests.

    Without any answer the server is gone. `user` goes before the server's host.
    """
    left, requests = list(answers), []

    async def handle(request: web.Request) -> web.Response:
        requests.append(request)
        status, body = left.pop(0)
        if isinstance(body, str):
            return web.Response(text=body, status=status)
        return web.json_response(body, status=status)

    async def serve() -> Any:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://{user}127.0.0.1:{runner.addresses[0][1]}/"
            if not left and ask is None:
                await runner.cleanup()
            async with MlflowClient(url, **options) as client:
                return await (ask(client) if ask else client.get_model_version("m", "3"))
        except MlflowError as error:
            return error
        finally:
            await runner.cleanup()

    return asyncio.run(serve()), requests


@pytest.mark.parametrize("status", [401, 408, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(status: int) -> None:
    version, requests = answered((status, "busy"), (status, "busy"), (200, FOUND))
    assert version.version == "3"
    assert len(requests) == 3


@pytest.mark.parametrize("status", [400, 403, 404, 409])
def test_a_refusal_is_final(status: int) -> None:
    error, requests = answered((status, {"error_code": "NO", "message": "not that"}), (200, FOUND))
    assert (error.status, error.code, error.temporary, error.retry) == (status, "NO", False, False)
    assert error.cause == "bad_config"
    assert f"/api/2.0/mlflow/model-versions/get: HTTP {status}: " in error.message
    assert "not that" in error.message and len(requests) == 1


def test_more_statuses_can_be_retried() -> None:
    version, _ = answered((403, "not yet"), (200, FOUND), also_retried=(403,))
    assert version.version == "3"


def test_an_answer_of_something_else_is_tried_again() -> None:
    version, _ = answered((200, "<html>starting</html>"), (200, FOUND))
    assert version.version == "3"


def test_the_patience_ends() -> None:
    error, requests = answered((503, "busy"), (200, FOUND), patience=0)
    assert (error.temporary, error.retry, error.cause) == (True, True, "temporary")
    assert len(requests) == 1


def test_a_server_that_is_not_there_may_come_back() -> None:
    async def ask() -> None:
        async with MlflowClient("http://127.0.0.1:1", patience=0) as client:
            await client.get_model_version("m", "3")

    with pytest.raises(MlflowError, match=r"http://127.0.0.1:1/.*ClientConnectorError") as error:
        asyncio.run(ask())
    assert error.value.temporary and error.value.status is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [((401, "no"), "HTTP 401"), ((200, "[]"), "not an object"), (None, "Cannot connect")],
    ids=["refused", "no_object", "gone"],
)
def test_no_error_tells_a_password(answer: tuple[int, str] | None, said: str) -> None:
    error, _ = answered(*[answer] * bool(answer), user="ada:s3cret@", patience=0)
    assert said in error.message and "http://127.0.0.1:" in error.message
    assert "ada" not in str(error) and "s3cret" not in str(error)


@pytest.mark.parametrize("uri", ["ada:s3cret@host", "http://ada:s3cret@host:port", "ftp://ada:s3cret@host"])
def test_an_address_that_is_wrong_tells_no_password_either(uri: str) -> None:
    async def ask() -> None:
        async with MlflowClient(uri, patience=0) as client:
            await client.get_model_version("m", "3")

    with pytest.raises(MlflowError, match=r"host.*Url") as error:
        asyncio.run(ask())
    assert "s3cret" not in str(error.value)


def test_a_deletion_that_is_repeated_has_succeeded() -> None:
    gone = {"error_code": "RESOURCE_DOES_NOT_EXIST"}
    done, requests = answered(
        (503, "lost"), (404, gone), ask=lambda client: client.delete_model_version("m", "3")
    )
    assert done is None and [request.method for request in requests] == ["DELETE"] * 2


@pytest.mark.parametrize(
    ("env", "header"),
    [
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
        ({"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}, "Basic dTpw"),
        ({}, None),
    ],
)
def test_it_authenticates_as_mlflows_own_client(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], header: str | None
) -> None:
    for name in ("TOKEN", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    _, (request,) = answered((200, FOUND))
    assert request.headers.get("Authorization") == header


def test_it_logs_in_by_the_file_that_comes_with_a_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    monkeypatch.setattr(mlflow_client, "CREDENTIALS_FILE", file)
    requests: list[str | None] = []

    async def served(request: web.Request) -> web.Response:
        requests.append(request.headers.get("Authorization"))
        if len(requests) == 1:  # the kubelet brings the Secret while the client waits
            file.write_text("[mlflow]\nmlflow_tracking_username = u\nmlflow_tracking_password = 50%\n")
        return web.json_response(FOUND, status=200 if requests[-1] else 401)

    async def ask() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", served)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with MlflowClient(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
            await client.get_model_version("m", "3")
        await runner.cleanup()

    asyncio.run(ask())
    assert requests == [None, "Basic dTo1MCU="]


def test_pages_are_put_together() -> None:
    one = {"name": "m", "version": 1, "tags": [{"key": "a", "value": "b"}, {"key": "empty"}]}
    pages = [
        (200, {"model_versions": [one], "next_page_token": "x"}),
        (200, {"model_versions": [{"name": "m", "version": 2}]}),
    ]
    found, requests = answered(*pages, ask=lambda client: client.search_model_versions("name = 'm'"))
    assert [version.version for version in found] == ["1", "2"]
    assert found[0].tags == {"a": "b", "empty": ""}
    assert [request.query.get("page_token") for request in requests] == [None, "x"]


def test_an_upload_that_is_answered_with_nothing_has_succeeded() -> None:
    run = mlflow_client.Run(run_id="r", experiment_id="1", artifact_uri="mlflow-artifacts:/1/r/artifacts")
    _, requests = answered((200, ""), ask=lambda client: client.log_text(run, "text", "sweep.md"))
    (request,) = requests
    assert request.method == "PUT"
    assert request.path == "/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/sweep.md"


def test_artifacts_that_the_server_does_not_serve_are_an_error() -> None:
    run = mlflow_client.Run("r", "1", "s3://bucket/1/r/artifacts")
    error, requests = answered(ask=lambda client: client.log_text(run, "text", "a.md"))
    assert "--serve-artifacts" in error.message and not requests


def test_a_real_server_understands_it(mlflow_uri: str, tmp_path: Path) -> None:
    witness = mlflow.MlflowClient(mlflow_uri, mlflow_uri)
    experiment = witness.create_experiment("client")
    run_id = witness.create_run(experiment, tags={"a": "b"}).info.run_id
    witness.log_metric(run_id, "f1", 0.5)

    async def ask() -> None:
        async with MlflowClient(mlflow_uri) as client:
            assert await client.get_experiment_id("client") == experiment
            assert await client.get_experiment_id("none such") is None
            run = await client.get_run(run_id)
            assert (run.metrics, run.tags["a"]) == ({"f1": 0.5}, "b")
            assert await client.search_runs(experiment, "tags.a = 'b'") == [run]
            await client.set_tag(run_id, "ä", "ö")
            await client.log_text(run, "| ä |", "folder/a b.md")

    asyncio.run(ask())
    assert witness.get_run(run_id).data.tags["ä"] == "ö"
    assert [file.path for file in witness.list_artifacts(run_id, "folder")] == ["folder/a b.md"]
    assert Path(witness.download_artifacts(run_id, "folder/a b.md", str(tmp_path))).read_text() == "| ä |"
