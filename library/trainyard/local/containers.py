"""Training steps as Docker containers on this machine, in place of pods.

`Containers` has those calls of `kube.jobs.JobKube` that a training makes. A container has the pod's image,
arguments, variables and volumes; claims are directories. It has neither GPUs nor the pod's limits.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from trainyard_contract import Env

from trainyard.kube.client import KubeError
from trainyard.kube.logs import LogPosition, pieces, unread
from trainyard.naming import CONTAINER

Pod = dict[str, Any]
POLL_SECONDS = 0.5
CHUNK_BYTES = 1 << 16
LOG_LINES = 80  # of a container that fails without a result, as the kubelet has them
LABEL = "trainyard.dev/local"  # of all containers, by which ./scripts/run --local removes those that are left
PLACE = "/trainyard"  # where a container finds its directory


class Containers:
    """The containers whose files are in one directory. Use as an async context manager."""

    namespace = "this-machine"

    def __init__(self, directory: Path) -> None:
        self._volumes, self._pods = directory / "volumes", directory / "pods"

    async def __aenter__(self) -> Self:
        """Make the directories."""
        self._pods.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *error: object) -> None:
        """Nothing: containers go on."""

    async def create_job(self, job: Pod) -> Pod:
        """Start the container of a Job's one pod, which has its name. One that is there stays as it is."""
        name, template = job["metadata"]["name"], job["spec"]["template"]
        if existing := await self.get(name):
            return existing
        place = self._pods / name
        place.mkdir(exist_ok=True)
        now = datetime.now(UTC).isoformat()
        meta = {**template["metadata"], "name": name, "uid": name, "creationTimestamp": now}
        (place / "pod.json").write_text(json.dumps({"metadata": meta, "spec": template["spec"]}))
        await _docker("run", "--detach", "--name", name, *self._arguments(template, place))
        found = await self.get(name)
        assert found is not None
        return found

    async def get(self, name: str) -> Pod | None:
        """The pod with its status, or None if it does not exist."""
        file = self._pods / name / "pod.json"
        if not file.exists():
            return None
        try:
            found = await _docker("inspect", "--format", "[{{json .State}}, {{json .Image}}]", name)
        except KubeError:  # somebody has removed the container
            return None
        state, image = json.loads(found)
        pod = json.loads(file.read_text())
        phase, container = await self._status(name, state)
        pod["metadata"]["resourceVersion"] = f"{state['Status']}-{state['FinishedAt']}"
        pod["spec"]["nodeName"] = os.uname().nodename
        status = {"name": CONTAINER, "imageID": image, "state": container}
        pod["status"] = {"phase": phase, "containerStatuses": [status]}
        return pod

    async def find(self, selector: str) -> list[Pod]:
        """All pods with these labels."""
        wanted = dict(each.split("=", 1) for each in selector.split(","))
        found = [await self.get(file.parent.name) for file in sorted(self._pods.glob("*/pod.json"))]
        return [pod for pod in found if pod and wanted.items() <= pod["metadata"]["labels"].items()]

    async def delete(self, name: str, *, force: bool = False) -> None:
        """End a pod's container if there is one, and remove it."""
        pod = await self.get(name)
        if pod and not force:
            seconds = str(pod["spec"]["terminationGracePeriodSeconds"])
            with suppress(KubeError):
                await _docker("stop", "--time", seconds, name)
        if pod:
            await _docker("rm", "--force", name)
        shutil.rmtree(self._pods / name, ignore_errors=True)

    async def delete_if_unchanged(self, pod: Pod) -> bool:
        """End and remove the container; return whether that was done."""
        await self.delete(pod["metadata"]["name"])
        return True

    async def events(self, name: str, kind: str = "Pod") -> list[dict[str, Any]]:
        """None: the container's state says all."""
        return []

    async def jobs(self, selector: str) -> list[dict[str, Any]]:
        """None: there are only pods."""
        return []

    async def job(self, name: str) -> None:
        """None, as there are only pods."""

    async def delete_job(self, name: str) -> None:
        """Delete a Job's pod."""
        await self.delete(name)

    async def node_answers(self, name: str, container: str = CONTAINER) -> bool:
        """It does: it is this machine."""
        return True

    async def watch(self, selector: str, until: Callable[[list[Any]], bool], seconds: float) -> None:
        """Show `until` the pods with these labels until it returns true, or for that many seconds."""
        end = time.monotonic() + seconds
        while not until(await self.find(selector)) and time.monotonic() < end:
            await asyncio.sleep(POLL_SECONDS)

    async def log_lines(
        self, name: str, position: LogPosition, container: str = CONTAINER
    ) -> AsyncGenerator[str, None]:
        """The container's log lines after `position`, until it ends."""
        position.resume()
        logs = await asyncio.create_subprocess_exec(
            *("docker", "logs", "--follow", "--timestamps", name),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert logs.stdout is not None
        try:
            async for piece in pieces(_chunks(logs.stdout)):
                if (line := unread(piece, position)) is not None:
                    yield line
        finally:
            with suppress(ProcessLookupError):
                logs.terminate()
            await logs.wait()

    def _arguments(self, pod: Pod, place: Path) -> list[str]:
        """Docker's options for a pod's container, its image and what it runs."""
        # Its tracking server listens on this machine alone.
        options = ["--network=host", f"--label={LABEL}", f"--volume={place}:{PLACE}"]
        options += [f"--user={os.getuid()}:{os.getgid()}"]
        (container,) = pod["spec"]["containers"]
        variables = {each["name"]: each["value"] for each in container["env"]}
        for name, value in {**variables, Env.RETURN_FILE: f"{PLACE}/result.json"}.items():
            options += ["--env", f"{name}={value}"]
        volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
        for mount in container["volumeMounts"]:
            options += self._mount(volumes[mount["name"]], mount, place)
        return [*options, container["image"], *container["args"]]

    def _mount(self, volume: Mapping[str, Any], mount: Mapping[str, Any], place: Path) -> list[str]:
        if volume.get("emptyDir", {}).get("medium") == "Memory":
            return ["--shm-size", _bytes(volume["emptyDir"]["sizeLimit"])]
        if "emptyDir" in volume:
            source = place / volume["name"]
        elif "persistentVolumeClaim" in volume:
            source = self._volumes / volume["persistentVolumeClaim"]["claimName"]
        else:
            raise KubeError(400, "BadRequest", f"volume {volume['name']} is none that this machine has")
        source.mkdir(parents=True, exist_ok=True)
        only = ":ro" if mount.get("readOnly") else ""
        return [f"--volume={source}:{mount['mountPath']}{only}"]

    async def _status(self, name: str, state: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The phase of the pod, and the state of its container."""
        if state["Status"] in ("created", "running", "paused"):
            return "Running", {"running": {"startedAt": state["StartedAt"]}}
        code = state["ExitCode"]
        reason = "OOMKilled" if state["OOMKilled"] else "Error" if code else "Completed"
        result = self._pods / name / "result.json"
        message = result.read_text() if result.exists() else ""
        if code and not message:
            message = await _docker("logs", "--tail", str(LOG_LINES), name)
        ended = {"exitCode": code, "reason": reason, "message": message}
        return "Failed" if code else "Succeeded", {"terminated": ended}


async def _chunks(stream: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
    while chunk := await stream.read(CHUNK_BYTES):
        yield chunk


def _bytes(quantity: str) -> str:
    """A size as Docker writes it: 1Gi is 1g."""
    return quantity.removesuffix("i").lower()


async def _docker(*arguments: str) -> str:
    """Run docker; return what it prints. KubeError with what it says if it fails."""
    process = await asyncio.create_subprocess_exec(
        "docker", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, error = await process.communicate()
    if process.returncode:
        raise KubeError(400, "Docker", error.decode(errors="replace").strip())
    # The log of a container is on both.
    return (output + (error if arguments[0] == "logs" else b"")).decode(errors="replace")
