"""Links of a training task: to why it waits, and to its run in MLflow's pages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from trainyard.naming import TaskIdentity
from trainyard.platform import Platform, Training
from trainyard.training import links

RUN = {"info": {"run_id": "abc", "experiment_id": "7"}}


@pytest.fixture
def ask(platform: Platform) -> Callable[..., dict[str, str]]:
    """Asks `question` of an MLflow over HTTP that knows the runs of the given keys."""

    def _ask(
        question: Callable[[Training], Any], *keys: str, ui: str = "http://mlflow.lan/"
    ) -> dict[str, str]:
        async def experiment(request: web.Request) -> web.Response:
            assert request.query["experiment_name"] == "d"
            return web.json_response({"experiment": {"experiment_id": "7"}})

        async def search(request: web.Request) -> web.Response:
            query = await request.json()
            assert query["experiment_ids"] == ["7"]
            found = [RUN for key in keys if query["filter"] == f"tags.`trainyard.run_key` = '{key}'"]
            return web.json_response({"runs": found} if found else {})

        async def serve() -> dict[str, str]:
            app, api = web.Application(), "/api/2.0/mlflow"
            app.router.add_get(f"{api}/experiments/get-by-name", experiment)
            app.router.add_post(f"{api}/runs/search", search)
            runner = web.AppRunner(app, shutdown_timeout=0)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            try:
                training = replace(
                    platform.training, tracking_uri=f"http://{host}:{port}", tracking_ui_url=ui
                )
                return await question(training)
            finally:
                await runner.cleanup()

        return asyncio.run(serve())

    return _ask


def test_why_pending_leads_to_the_xcoms_of_the_task_instance() -> None:
    plain = links.why_pending(TaskIdentity("d", "manual__a+b", "train", -1, 1))
    assert plain == {"_link_why_pending": "http://localhost:8080/dags/d/runs/manual__a%2Bb/tasks/train/xcom"}
    (mapped,) = links.why_pending(TaskIdentity("d", "r", "train", 3, 1)).values()
    assert mapped.endswith("/tasks/train/mapped/3/xcom")


def test_an_mlflow_run_is_found_by_its_key(ask: Callable[..., dict[str, str]]) -> None:
    link = {"_link_mlflow_run": "http://mlflow.lan/#/experiments/7/runs/abc"}
    assert ask(lambda training: links.mlflow_run(training, "d", "k"), "k") == link
    assert ask(lambda training: links.mlflow_run(training, "d", "other"), "k") == {}


def test_without_a_public_address_or_an_answer_there_is_no_link(
    ask: Callable[..., dict[str, str]], platform: Platform
) -> None:
    assert ask(lambda training: links.mlflow_run(training, "d", "k"), "k", ui="") == {}
    silent = replace(platform.training, tracking_uri="http://127.0.0.1:9", tracking_ui_url="http://x")
    assert asyncio.run(links.mlflow_run(silent, "d", "k")) == {}
