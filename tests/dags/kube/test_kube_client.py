"""The Kubernetes client against an API server over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from api_server import NAMESPACE, ApiServer, LocalKube, Pod
from trainyard.kube import client

JOB: dict[str, Any] = {
    "metadata": {"name": "p"},
    "spec": {
        "completions": 1,
        "template": {"metadata": {"labels": {"a": "b"}, "annotations": {}}, "spec": {}},
    },
}
POD = "p-0-abcde"  # its pod


async def runs(server: ApiServer, pod: Pod) -> None:
    await server.change(pod["metadata"]["name"], phase="Running")


def with_pod(use: Any) -> Any:
    """What `use` returns, which is called with a client and the name of a Job's pod that exists."""

    async def serve() -> Any:
        async with ApiServer(runs).serve() as kube:
            await kube.create_job(JOB)
            return await use(kube, POD)

    return asyncio.run(asyncio.wait_for(serve(), 120))


def test_creating_a_job_again_returns_the_one_that_exists() -> None:
    async def create_again(kube: LocalKube, name: str) -> Pod:
        return await kube.create_job({**JOB, "spec": {"completions": 5}})

    assert with_pod(create_again)["spec"] == JOB["spec"]


def test_a_pod_that_does_not_exist_is_none_and_its_deletion_no_error() -> None:
    async def delete_twice(kube: LocalKube, name: str) -> Pod | None:
        await kube.delete(name)
        await kube.delete(name)
        return await kube.get(name)

    assert with_pod(delete_twice) is None


def test_a_pod_that_has_changed_is_not_deleted() -> None:
    async def delete_unchanged(kube: LocalKube, name: str) -> list[Any]:
        pod = await kube.get(name)
        assert pod
        old = {**pod, "metadata": {**pod["metadata"], "resourceVersion": "0"}}
        return [await kube.delete_if_unchanged(each) for each in (old, pod)] + [await kube.get(name)]

    assert with_pod(delete_unchanged) == [False, True, None]


@pytest.mark.parametrize("code", [401, 403, 429, 500, 503])
def test_a_call_is_made_again_while_the_server_is_away_or_knows_nobody(
    monkeypatch: pytest.MonkeyPatch, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def sleep(seconds: float) -> None: ...

    async def read() -> Pod | None:
        server = ApiServer(runs)
        async with server.serve() as kube:
            await kube.create_job(JOB)
            server.errors = [code] * 3
            with monkeypatch.context() as patch:
                patch.setattr(client.asyncio, "sleep", sleep)
                return await kube.get(POD)

    pod = asyncio.run(asyncio.wait_for(read(), 120))
    assert pod and pod["metadata"]["name"] == POD
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    seconds = client.RIGHTS_SECONDS if code < 429 else client.RETRY_SECONDS
    assert [f"is tried again for {seconds} s: Kubernetes API: {code}" in each for each in told] == [True]


def test_rights_that_do_not_come_back_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RIGHTS_SECONDS", 0)

    async def read() -> None:
        server = ApiServer(runs)
        server.errors = [403]
        async with server.serve() as kube:
            await kube.find("a=b")

    with pytest.raises(client.KubeError, match="403"):
        asyncio.run(read())


def test_what_may_not_be_created_is_an_error_at_once() -> None:
    async def create() -> None:
        server = ApiServer(runs)
        server.errors = [403]
        async with server.serve() as kube:
            await kube.create_job(JOB)

    with pytest.raises(client.KubeError, match="403"):
        asyncio.run(asyncio.wait_for(create(), 120))


def test_a_log_that_cannot_be_read_has_no_lines() -> None:
    async def tails(kube: LocalKube, name: str) -> list[list[str]]:
        known = await kube.tail(name, 20)
        kube._pods = kube._pods.replace(NAMESPACE, "elsewhere")  # where there is no log
        return [known, await kube.tail(name, 20)]

    (line,), nothing = with_pod(tails)
    assert line.endswith(f"log of {POD}") and nothing == []


def test_a_watch_shows_what_there_is_and_every_change() -> None:
    """A pod that is deleted is shown as it was at the end: how it ended counts."""
    shown: list[list[str]] = []

    async def watch() -> None:
        server = ApiServer(runs)

        async def ends() -> None:
            await server.change(POD, phase="Failed")
            await server.vanish(POD)

        def until(pods: list[Pod]) -> bool:
            shown.append([pod["status"]["phase"] for pod in pods])
            return len(shown) > 1 and not pods

        async with server.serve() as kube:
            await kube.create_job(JOB)
            asyncio.get_running_loop().call_later(0.2, lambda: asyncio.ensure_future(ends()))
            await kube.watch("a=b", until, 10)
            await kube.watch("a=c", until, 10)  # which it is at once: there are none

    asyncio.run(asyncio.wait_for(watch(), 120))
    assert shown[0] == ["Running"] and ["Failed"] in shown and shown[-2:] == [[], []]


def test_a_watch_that_ends_asks_twice_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds wait for a GPU, and look again and again."""
    asked: list[str] = []
    request = LocalKube._request

    async def _request(
        self: LocalKube, method: str, path: str, query: Any = None, *args: Any, **more: Any
    ) -> Any:
        asked.append((query or {}).get("timeoutSeconds", "list"))
        return await request(self, method, path, query, *args, **more)

    monkeypatch.setattr(LocalKube, "_request", _request)

    async def watch(kube: LocalKube, name: str) -> None:
        asked.clear()
        await kube.watch("a=b", lambda pods: False, 1.3)
        assert asked == ["list", "2"]

    with_pod(watch)


def test_a_watch_has_an_end() -> None:
    async def watch(kube: LocalKube, name: str) -> None:
        await kube.watch("a=b", lambda pods: False, 0.3)

    with_pod(watch)
