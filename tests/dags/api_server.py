"""A Kubernetes API server for the pods and Jobs of one namespace, over HTTP.

A `Fate` stands for scheduler and kubelet: it gets every pod that a Job has made and changes it.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web
from kubernetes_asyncio.client import ApiClient, Configuration
from trainyard.kube.jobs import JobKube

Pod = dict[str, Any]
NAMESPACE = "ml-training"
CREATED = "2026-11-21T07:00:00Z"


class LocalKube(JobKube):
    """The client under test, connected to the server below instead of a cluster."""

    def __init__(self, url: str, namespace: str) -> None:
        super().__init__(namespace)
        self._url = url

    async def __aenter__(self) -> LocalKube:
        self._api = ApiClient(Configuration(host=self._url))
        return self


class ApiServer:
    """`fate(server, pod)` runs once for every pod; `refusals` are what the Job controller is told first.

    It knows no other namespace than `namespace`.
    """

    def __init__(self, fate: Callable[[ApiServer, Pod], Any], namespace: str = NAMESPACE) -> None:
        self.namespace = namespace
        self.pods: dict[str, Pod] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.created: list[Pod] = []
        self.refusals: list[str] = []
        self.errors: list[int] = []  # of the next requests, whatever they are
        self.alive_at_once = 0
        self.workloads: list[dict[str, Any]] = []
        self.refused: dict[str, str] = {}  # by Job: why it cannot make its pod
        self.before_deletion: Callable[[], Any] | None = None  # called once, before the next deletion
        self.unanswered = 0.0  # how often a node gives no answer, from now on
        self._fate = fate
        self._versions = itertools.count(1)
        self._changed = asyncio.Condition()
        self._ends = False
        self._made: list[str] = []
        self._gone: dict[str, Pod] = {}

    async def change(self, name: str, **status: Any) -> None:
        """Merge into a pod's status; `node` also assigns it."""
        async with self._changed:
            pod = self.pods[name]
            if node := status.pop("node", None):
                pod["spec"]["nodeName"] = node
            pod["status"].update(status)
            pod["metadata"]["resourceVersion"] = str(next(self._versions))
            self._changed.notify_all()

    async def run(self, name: str, *, exit_code: int, message: str = "", reason: str = "Error") -> None:
        """Run a pod's container and end it."""
        ended = {"exitCode": exit_code, "message": message, "reason": reason}
        status = [{"name": "trainer", "state": {"terminated": ended}}]
        phase = "Succeeded" if exit_code == 0 else "Failed"
        await self.change(name, node="node-1", phase=phase, containerStatuses=status)
        for job in self.jobs.values() if exit_code else ():
            if _is_owned_by(self.pods[name], job["metadata"]["name"]):
                job["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}

    async def vanish(self, name: str) -> None:
        """Delete a pod, as a drained node does."""
        async with self._changed:
            if pod := self.pods.pop(name, None):
                self._gone[pod["metadata"]["uid"]] = pod
            self._changed.notify_all()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[LocalKube]:
        """Serve on a free port; yields a client."""
        app = web.Application(middlewares=[self._errors])
        core = f"/api/v1/namespaces/{self.namespace}"
        pods, events = f"{core}/pods", f"{core}/events"
        jobs = f"/apis/batch/v1/namespaces/{self.namespace}/jobs"
        app.router.add_get(pods, self._list)
        app.router.add_get(f"{pods}/{{name}}", self._get)
        app.router.add_delete(f"{pods}/{{name}}", self._delete)
        app.router.add_get(f"{pods}/{{name}}/log", self._log)
        app.router.add_post(jobs, self._create_job)
        app.router.add_get(jobs, self._list_jobs)
        app.router.add_get(f"{jobs}/{{name}}", self._get_job)
        app.router.add_delete(f"{jobs}/{{name}}", self._delete_job)
        workloads = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{self.namespace}/workloads"
        app.router.add_get(workloads, self._list_workloads)
        app.router.add_post(f"{core}/services", self._create_service)
        app.router.add_get(events, self._events)
        app.router.add_post(events, self._create_event)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        try:
            async with LocalKube(f"http://{host}:{port}", self.namespace) as kube:
                yield kube
        finally:
            async with self._changed:
                self._ends = True  # nobody watches any more
                self._changed.notify_all()
            await runner.cleanup()

    @web.middleware
    async def _errors(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.errors:
            return status(self.errors.pop(0), "", "not now")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _create_job(self, request: web.Request) -> web.Response:
        job = await request.json()
        name = job["metadata"]["name"]
        if name in self.jobs:
            return status(409, "AlreadyExists", f"{name} exists")
        version = str(next(self._versions))
        job["metadata"] |= {"uid": version, "resourceVersion": version, "creationTimestamp": CREATED}
        job["status"] = {}
        self.jobs[name] = job
        if not job["spec"].get("suspend"):
            await self._make_pods(job)
        return web.json_response(job, status=201)

    async def suspend(self, name: str, suspend: bool) -> None:
        """Preempt or admit a Job, as Kueue does: its pods go, or are made."""
        job = self.jobs[name]
        job["spec"]["suspend"] = suspend
        job["metadata"]["resourceVersion"] = str(next(self._versions))
        async with self._changed:
            self._changed.notify_all()
        if not suspend:
            return await self._make_pods(job)
        for pod in [key for key, pod in self.pods.items() if _is_owned_by(pod, name)]:
            await self.vanish(pod)

    async def _make_pods(self, job: Pod) -> None:
        """As the Job controller does, which tries again what was refused."""
        name = job["metadata"]["name"]
        self.refused.pop(name, None)
        if self.refusals:
            self.refused[name] = self.refusals.pop(0)
            return
        for rank in range(job["spec"]["completions"]):
            await self._make_pod(job, rank)

    async def _make_pod(self, job: Pod, rank: int) -> None:
        job_name, template = job["metadata"]["name"], job["spec"]["template"]
        end = "abcde" if rank or f"{job_name}-0-abcde" not in self._made else f"again{len(self._made)}"
        name, version = f"{job_name}-{rank}-{end}", str(next(self._versions))
        self._made.append(name)
        index = {"batch.kubernetes.io/job-completion-index": str(rank)}
        pod = {
            "metadata": {
                "name": name,
                "uid": version,
                "resourceVersion": version,
                "creationTimestamp": CREATED,
                "ownerReferences": [{"kind": "Job", "name": job_name}],
                "labels": {**template["metadata"]["labels"], "batch.kubernetes.io/job-name": job_name},
                "annotations": {**template["metadata"]["annotations"], **index},
            },
            "spec": copy.deepcopy(template["spec"]),
            "status": {"phase": "Pending"},
        }
        self.pods[name] = pod
        self.created.append(copy.deepcopy(pod))
        writers = [each for each in self.pods.values() if each["status"]["phase"] in ("Pending", "Running")]
        self.alive_at_once = max(self.alive_at_once, len(writers))
        await self._fate(self, pod)

    async def _get(self, request: web.Request) -> web.Response:
        pod = self.pods.get(request.match_info["name"])
        return web.json_response(pod) if pod else status(404, "NotFound", "no such pod")

    async def _list(self, request: web.Request) -> web.StreamResponse:
        return await self._answer_list(self.pods, request)

    async def _answer_list(
        self, objects: dict[str, dict[str, Any]], request: web.Request
    ) -> web.StreamResponse:
        """List objects, or watch them."""
        selected, version = _selected(objects, request), str(next(self._versions))
        if "watch" not in request.query:
            return web.json_response({"items": selected, "metadata": {"resourceVersion": version}})
        response = web.StreamResponse()
        await response.prepare(request)
        seen = {pod["metadata"]["uid"]: pod for pod in copy.deepcopy(selected)}
        since = int(request.query["resourceVersion"])

        def changes() -> list[dict[str, Any]]:
            now = {pod["metadata"]["uid"]: pod for pod in _selected(objects, request)}
            news = [pod for pod in now.values() if int(pod["metadata"]["resourceVersion"]) > since]
            gone = [self._gone[uid] for uid in seen.keys() - now.keys()]
            return [
                *({"type": "MODIFIED", "object": pod} for pod in news),
                *({"type": "DELETED", "object": pod} for pod in gone),
            ]

        while not self._ends:
            async with self._changed:
                await self._changed.wait_for(lambda: self._ends or changes())
                news = changes()
                since = next(self._versions)
                seen = {pod["metadata"]["uid"]: pod for pod in copy.deepcopy(_selected(objects, request))}
            with suppress(ConnectionError):  # who watched has seen enough
                for change in news:
                    await response.write(json.dumps(change).encode() + b"\n")
        return response

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        body = json.loads(await request.text() or "{}")
        if self.before_deletion:
            before_deletion, self.before_deletion = self.before_deletion, None
            await before_deletion()
        pod = self.pods.get(name)
        if not pod:
            return status(404, "NotFound", "no such pod")
        wanted = body.get("preconditions", {}).get("resourceVersion")
        if wanted and wanted != pod["metadata"]["resourceVersion"]:
            return status(409, "Conflict", "the pod has changed")
        await self.vanish(name)
        return web.json_response(pod)

    async def _log(self, request: web.Request) -> web.Response:
        if self.unanswered:
            self.unanswered -= 1
            return status(502, "BadGateway", "dial tcp 10.0.0.9:10250: connect: no route to host")
        return web.Response(text=f"{CREATED} log of {request.match_info['name']}\n")

    async def _get_job(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["name"])
        return web.json_response(job) if job else status(404, "NotFound", "no such Job")

    async def _list_jobs(self, request: web.Request) -> web.StreamResponse:
        return await self._answer_list(self.jobs, request)

    async def _list_workloads(self, request: web.Request) -> web.Response:
        return web.json_response({"items": self.workloads})

    async def _delete_job(self, request: web.Request) -> web.Response:
        """Delete a Job with its pods."""
        name = request.match_info["name"]
        if self.before_deletion:
            before_deletion, self.before_deletion = self.before_deletion, None
            await before_deletion()
        body = json.loads(await request.text() or "{}")
        wanted = body.get("preconditions", {}).get("resourceVersion")
        if wanted and name in self.jobs and wanted != self.jobs[name]["metadata"]["resourceVersion"]:
            return status(409, "Conflict", "the Job has changed")
        owned = [key for key, pod in self.pods.items() if _is_owned_by(pod, name)]
        for pod in owned:
            await self.vanish(pod)
        job = self.jobs.pop(name, None)
        if job:
            self._gone[job["metadata"]["uid"]] = job
        return web.json_response(job) if job else status(404, "NotFound", "no such Job")

    async def _create_service(self, request: web.Request) -> web.Response:
        return web.json_response(await request.json(), status=201)

    async def _create_event(self, request: web.Request) -> web.Response:
        self.events.append(await request.json())
        return web.json_response(self.events[-1], status=201)

    async def _events(self, request: web.Request) -> web.Response:
        name = request.query["fieldSelector"].rpartition("=")[2]
        if name not in self.refused:
            return web.json_response({"items": []})
        job = self.jobs[name]
        event = {
            "metadata": {"creationTimestamp": CREATED},
            "involvedObject": {"uid": job["metadata"]["uid"]},
            "reason": "FailedCreate",
            "message": f'Error creating: pods "{name}-0-abcde" is forbidden: {self.refused[name]}',
        }
        if "exceeded quota" in event["message"]:  # another refusal would come again each time
            await self._make_pods(job)
        return web.json_response({"items": [event]})


def _selected(objects: dict[str, dict[str, Any]], request: web.Request) -> list[dict[str, Any]]:
    """Those which match the request's label selector: `key=value`, or `key` for any value."""
    wanted = [each.partition("=") for each in request.query.get("labelSelector", "").split(",") if each]

    def matches(found: dict[str, Any]) -> bool:
        labels = found["metadata"].get("labels", {})
        return all(key in labels and (not equals or labels[key] == value) for key, equals, value in wanted)

    _, _, name = request.query.get("fieldSelector", "").partition("metadata.name=")
    return [each for each in objects.values() if matches(each) and name in ("", each["metadata"]["name"])]


def _is_owned_by(pod: Pod, job: str) -> bool:
    return any(owner["name"] == job for owner in pod["metadata"].get("ownerReferences", []))


def kubeconfig(kube: LocalKube, directory: Path) -> Path:
    """A file by which clients find the server of `kube`."""
    cluster = {"name": "c", "cluster": {"server": kube._url}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    told = {"clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}]}
    file = directory / "kubeconfig"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "x", **told}))
    return file


def status(code: int, reason: str, message: str) -> web.Response:
    """An error response."""
    return web.json_response({"reason": reason, "message": message}, status=code)
