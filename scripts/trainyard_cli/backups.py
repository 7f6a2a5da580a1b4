"""Makes backups and restores them, by Jobs of the release's own CronJobs.

What a Job does is in the chart (charts/trainyard/files/backup). Here is what is around it: which Job, how far
it is, and what of the release has to begin anew when its databases are others.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import release, workloads
from .errors import CliError
from .installed import Installed
from .kube import Kube, container_statuses, waiting_reason
from .stages import Stage, Stages

Json = dict[str, Any]

BACKUP, RESTORE = "backup", "restore"
# Components with pods of the release that have nothing of a database in memory, or are one.
UNTOUCHED = ("database", "object-store")
# Jobs of the release that have written to the databases when it was installed, in their order.
JOBS_AGAIN = ("migrate-database", "trainyard-airflow-pools")
START_SECONDS = 300.0
GONE_SECONDS = 120.0
EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Backup:
    """A backup. ``error`` says why it cannot be restored."""

    name: str
    line: str
    error: str = ""


def back_up(stages: Stages, installed: Installed) -> Backup:
    """Make a backup now, or follow the one that is being made; return it."""
    found = cron_job(installed, BACKUP)
    with stages("backup") as stage:
        running = [
            each
            for each in installed.jobs(BACKUP)
            if _is_owned(each, found) and not workloads.has_ended(each)
        ]
        job = running[-1] if running else start(installed, found)
        if running:
            stage.update(f"Job {job['metadata']['name']} is at it already")
        return _backup(json.loads(_last_line(follow(stage, installed, job)))["backup"])


def list_backups(stages: Stages, installed: Installed) -> list[Backup]:
    """Return the backups, the oldest first."""
    with stages("list") as stage:
        job = start(installed, cron_job(installed, RESTORE), reads_only=True)
        return [_backup(each) for each in json.loads(_last_line(follow(stage, installed, job)))["backups"]]


def chosen(backups: list[Backup], name: str) -> Backup:
    """Return the backup of this name, "" the newest; CliError where there is none that can be restored."""
    if not backups:
        raise CliError("there is no backup", "./scripts/backup makes one")
    found = [each for each in backups if each.name == name] if name else backups[-1:]
    if not found:
        raise CliError(
            f"there is no backup {name}", f"name one of these: {' '.join(each.name for each in backups)}"
        )
    if found[0].error:
        message, _, cure = found[0].error.partition("\n  cure: ")
        raise CliError(message.removeprefix("error: "), cure)
    return found[0]


def restore(stages: Stages, installed: Installed, backup: Backup) -> None:
    """Put a backup in place of what the release has, and return when all of it is ready again."""
    try:
        _restore(stages, installed, backup)
    except CliError as error:
        # The newest may be another one by then.
        once_more = f"run ./scripts/restore {backup.name} again"
        cure = re.sub(r"run (\./scripts/restore|the command) again", once_more, error.cure)
        raise CliError(error.message, cure) from error


def _restore(stages: Stages, installed: Installed, backup: Backup) -> None:
    for component in JOBS_AGAIN:
        newest_job(installed, component)  # what is missing is told before anything is overwritten
    found = cron_job(installed, RESTORE)
    with stages("restore") as stage:
        job = _under_way(installed, backup) or start(installed, found, backup=backup.name)
        follow(stage, installed, job)
    with stages("schema") as stage:
        again(stage, installed, JOBS_AGAIN[0])
    with stages("restart") as stage:
        restart(stage, installed)
        release.wait_for_workloads(installed.kube, stage, (installed.namespace,), only=installed.workloads())
        again(stage, installed, JOBS_AGAIN[1])


def _under_way(installed: Installed, backup: Backup) -> Json | None:
    """Return the Job that restores this backup already, as the command was broken off, or None."""
    for job in installed.jobs(RESTORE):
        restores = None if workloads.has_ended(job) else backup_of(job)
        if restores == backup.name:
            return job
        if restores:
            name = job["metadata"]["name"]
            cure = (
                f"wait until it has ended, or delete it: kubectl -n {installed.namespace} delete job {name}"
            )
            raise CliError(f"Job {name} restores backup {restores}", cure)
    return None


# ---- Jobs


def cron_job(installed: Installed, component: str) -> Json:
    """Return the CronJob of which Jobs are made; CliError where the release has none."""
    path = f"/apis/batch/v1/namespaces/{installed.namespace}/cronjobs"
    for each in installed.kube.items(path, labelSelector=installed.selector(component)):
        return each
    message = f"the release {installed.name} in namespace {installed.namespace} makes no backups"
    raise CliError(message, "set backup.enabled to true in its values; see docs/operations.md#backup")


def newest_job(installed: Installed, component: str) -> Json | None:
    """Return the newest Job of a component, None where the release has none; CliError where it is lost.

    Whether the release has one tells its ServiceAccount, which stays when the Job is deleted.
    """
    if jobs := installed.jobs(component):
        return jobs[-1]
    path = f"/api/v1/namespaces/{installed.namespace}/serviceaccounts"
    if installed.kube.items(path, labelSelector=installed.selector(component)):
        cure = "upgrade the release with the same values, which makes it, then run ./scripts/restore again"
        raise CliError(f"the release has no Job {component}", cure)
    return None


def start(installed: Installed, cron_job: Json, *, backup: str = "", reads_only: bool = False) -> Json:
    """Make a Job of a CronJob. It is the CronJob's, which removes it some time."""
    job = manifest(cron_job, time.strftime("%m%d%H%M%S", time.gmtime()), backup=backup, reads_only=reads_only)
    return installed.kube.call("POST", workloads.list_path("Job", installed.namespace), json=job)


def manifest(cron_job: Json, suffix: str, *, backup: str = "", reads_only: bool = False) -> Json:
    """Return a Job of a CronJob: of a restore of this backup, or one that tells which there are."""
    template = json.loads(json.dumps(cron_job["spec"]["jobTemplate"]))
    metadata = cron_job["metadata"]
    pod = template["spec"]["template"]["spec"]
    template["spec"]["backoffLimit"] = 0  # whoever waits for it is told at once
    if reads_only:
        reader = pod["initContainers"][0]
        reader["command"][-1] = "list"
        pod["containers"], pod["initContainers"] = [reader], []
    for container in pod.get("initContainers", []):
        for variable in container.get("env", []):
            if variable["name"] == "BACKUP":
                variable["value"] = backup
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{metadata['name']}-{suffix}",
            "namespace": metadata["namespace"],
            "labels": template.get("metadata", {}).get("labels", {}),
            "annotations": {"cronjob.kubernetes.io/instantiate": "manual"},
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "CronJob",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": template["spec"],
    }


def backup_of(job: Json) -> str:
    """Return the backup that a Job restores; "" for one that does not."""
    containers = job["spec"]["template"]["spec"].get("initContainers", [])
    variables = [variable for each in containers for variable in each.get("env", [])]
    return next((str(each.get("value", "")) for each in variables if each["name"] == "BACKUP"), "")


def follow(stage: Stage, installed: Installed, job: Json) -> str:
    """Tell what a Job does until it has ended; return what its last container wrote."""
    name, kube = job["metadata"]["name"], installed.kube
    path = workloads.path(workloads.identity("Job", installed.namespace, name))
    began = time.monotonic()
    while True:
        job = kube.get(path)
        pods = _pods(installed, name)
        if workloads.has_ended(job):
            break
        if pods:
            stage.update(_doing(kube, installed.namespace, pods[-1]))
        if not any(_started(each) for each in pods) and time.monotonic() > began + START_SECONDS:
            why = waiting_reason(pods[-1]) if pods else "no pod was made"
            kube.delete(path, propagationPolicy="Background")
            raise CliError(f"Job {name} does not start: {why}", _why_not(installed, name))
        time.sleep(EVERY_SECONDS)
    last = pods[-1] if pods else {}
    if not workloads.is_ready("Job", job):
        raise _failure(installed, name, last)
    return kube.logs(installed.namespace, last["metadata"]["name"], last["spec"]["containers"][0]["name"])


def again(stage: Stage, installed: Installed, component: str) -> None:
    """Run the release's newest Job of a component once more, and return when it has ended."""
    old, kube = newest_job(installed, component), installed.kube
    if old is None:
        stage.update(
            f"there is no Job {component}: where the backup is older than the release, upgrade the release"
        )
        return
    name = old["metadata"]["name"]
    path = workloads.list_path("Job", installed.namespace)
    stage.update(f"Job {name} again")
    kube.delete(f"{path}/{name}", propagationPolicy="Background")
    deadline = time.monotonic() + GONE_SECONDS
    while (there := kube.find(f"{path}/{name}")) and there["metadata"]["uid"] == old["metadata"]["uid"]:
        if time.monotonic() > deadline:
            raise CliError(f"Job {name} does not go", f"kubectl -n {installed.namespace} describe job {name}")
        time.sleep(EVERY_SECONDS)
    if there is None:  # else Argo CD has made it
        try:
            kube.call("POST", path, json=_fresh(old))
        except CliError:
            if kube.find(f"{path}/{name}") is None:  # else Argo CD was faster
                raise
    deadline = time.monotonic() + release.READY_SECONDS
    while not workloads.is_ready("Job", job := kube.get(f"{path}/{name}")):
        if workloads.has_ended(job) or time.monotonic() > deadline:
            raise _failure(installed, name, next(reversed(_pods(installed, name)), {}))
        time.sleep(EVERY_SECONDS)


def restart(stage: Stage, installed: Installed) -> None:
    """Replace the pods of the release which know the databases as they were.

    Nothing is scaled, as Argo CD would scale it back.
    """
    stage.update("pods begin anew")
    path = f"/api/v1/namespaces/{installed.namespace}/pods"
    of_release = installed.selector()
    going = set()
    for each in installed.kube.items(path, labelSelector=of_release):
        metadata = each["metadata"]
        kinds = {owner["kind"] for owner in metadata.get("ownerReferences", [])}
        component = metadata["labels"].get("app.kubernetes.io/component")
        if kinds & {"ReplicaSet", "StatefulSet"} and component not in UNTOUCHED:
            installed.kube.delete(f"{path}/{metadata['name']}")
            going.add(metadata["uid"])
    deadline = time.monotonic() + GONE_SECONDS
    while going & {each["metadata"]["uid"] for each in installed.kube.items(path, labelSelector=of_release)}:
        if time.monotonic() > deadline:
            cure = f"kubectl -n {installed.namespace} get pods shows which, then run ./scripts/restore again"
            raise CliError("pods of the release do not go", cure)
        time.sleep(EVERY_SECONDS)


def _fresh(job: Json) -> Json:
    """Return a Job as it was made, without what the cluster has added."""
    metadata = {key: job["metadata"].get(key) for key in ("name", "namespace", "labels", "annotations")}
    spec = {key: value for key, value in job["spec"].items() if key not in ("selector", "manualSelector")}
    template = json.loads(json.dumps(spec["template"]))
    labels = template["metadata"].get("labels", {})
    template["metadata"]["labels"] = {
        key: value for key, value in labels.items() if not _is_of_controller(key)
    }
    metadata["labels"] = {
        key: value for key, value in (metadata["labels"] or {}).items() if not _is_of_controller(key)
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {**spec, "template": template},
    }


def _is_of_controller(label: str) -> bool:
    return label.rpartition("/")[2] in ("controller-uid", "job-name")


def _is_owned(job: Json, cron_job: Json) -> bool:
    return any(
        owner["uid"] == cron_job["metadata"]["uid"] for owner in job["metadata"].get("ownerReferences", [])
    )


def _pods(installed: Installed, job: str) -> list[Json]:
    """Return the pods of a Job, the oldest first."""
    found = installed.kube.items(
        f"/api/v1/namespaces/{installed.namespace}/pods", labelSelector=f"job-name={job}"
    )
    return sorted(found, key=lambda each: str(each["metadata"]["creationTimestamp"]))


def _started(pod: Json) -> bool:
    return any(not each.get("state", {}).get("waiting") for each in container_statuses(pod))


def _doing(kube: Kube, namespace: str, pod: Json) -> str:
    """Say what a pod does: the last line of the container that runs, or why none does."""
    for container in container_statuses(pod):
        if "running" in container.get("state", {}):
            lines = kube.logs(namespace, pod["metadata"]["name"], container["name"], lines=1).splitlines()
            shown = [line for line in lines if not line.startswith("{")]
            return ": ".join([container["name"], *shown])
    return waiting_reason(pod) or "ending"


def _failure(installed: Installed, job: str, pod: Json) -> CliError:
    """Return the error for a Job that failed: what its container said, with the cure that this names."""
    cure = _why_not(installed, job)
    status = pod.get("status", {})
    if status.get("reason") == "Evicted":
        if pod["metadata"]["labels"].get("app.kubernetes.io/component") in (BACKUP, RESTORE):
            space = "raise backup.scratchSize and backup.resources.limits.ephemeral-storage"
            cure = f"{space}, then run the command again"
        return CliError(f"the pod of Job {job} was evicted: {status.get('message', '').strip()}", cure)
    for container in container_statuses(pod) if pod else []:
        ended = container.get("state", {}).get("terminated", {})
        if ended and ended.get("exitCode"):
            said = str(ended.get("message") or ended.get("reason") or "no reason given").strip()
            _, found, explained = said.rpartition("error: ")
            if found and "\n  cure: " in explained:
                return CliError(*explained.split("\n  cure: ", 1))
            lines = "\n  ".join(said.splitlines()[-release.chart.SHOWN_LINES :])
            return CliError(f"Job {job} failed in container {container['name']}:\n  {lines}", cure)
    return CliError(f"Job {job} failed", cure)


def _why_not(installed: Installed, job: str) -> str:
    return f"kubectl -n {installed.namespace} describe pods -l job-name={job}, then run the command again"


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


# ---- showing


def _backup(summary: Json) -> Backup:
    return Backup(summary["name"], ", ".join(_facts(summary)), summary.get("error", ""))


def _facts(summary: Json) -> Iterator[str]:
    if "error" in summary:
        yield "damaged"
        return
    yield from (f"{name} {_size(size)}" for name, size in summary["databases"].items())
    files = summary["artifacts"]
    yield f"{files['files']} artifacts {_size(files['size'])}" if files else "no artifacts"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
