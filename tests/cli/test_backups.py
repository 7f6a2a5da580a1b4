"""What ./scripts/backup and ./scripts/restore make of the release's CronJobs, and what they refuse.

The scripts that the Jobs run are in tests/chart/test_backup.py; the cluster is in tests/e2e/test_backup.py.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from trainyard_cli import backups, workloads
from trainyard_cli.backups import Backup
from trainyard_cli.errors import CliError
from trainyard_cli.installed import Installed
from trainyard_cli.kubectl_proxy import ProxiedKube
from trainyard_cli.objects import Identity
from trainyard_cli.stages import Stages

Json = dict[str, Any]
CRON_JOB: Json = {
    "metadata": {"name": "trainyard-restore", "namespace": "ml", "uid": "u1"},
    "spec": {
        "jobTemplate": {
            "metadata": {"labels": {"app.kubernetes.io/component": "restore"}},
            "spec": {
                "backoffLimit": 2,
                "template": {
                    "spec": {
                        "initContainers": [
                            {
                                "name": "fetch",
                                "command": ["python", "/scripts/backup.py", "fetch"],
                                "env": [{"name": "BACKUP", "value": ""}, {"name": "PLACE", "value": "/b"}],
                            },
                            {"name": "artifacts", "command": ["python", "/scripts/backup.py", "place"]},
                        ],
                        "containers": [{"name": "databases", "command": ["bash", "/scripts/restore.sh"]}],
                    }
                },
            },
        }
    },
}


class Server(socketserver.ThreadingUnixStreamServer):
    """Answers with what ``found`` has of a path; lists are empty otherwise, and nothing can be made."""

    def __init__(self, socket: Path) -> None:
        super().__init__(str(socket), Answers)
        self.found: dict[str, Json] = {}
        self.made: dict[str, Json] = {}  # by somebody else, when somebody wants to make it
        self.asked: list[str] = []


class Answers(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(self.path)
        is_list = path.endswith("s")
        found = self.server.found.get(path, {"items": []} if is_list else {})
        body = json.dumps(found).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.found |= self.server.made
        self.send_error(409)

    def do_DELETE(self) -> None:
        self.server.found.pop(self.path.partition("?")[0], None)
        self.send_response(200)
        self.end_headers()

    def address_string(self) -> str:
        return "socket"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "api.sock") as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


@pytest.fixture
def installed(server: Server) -> Installed:
    return Installed(ProxiedKube(Path(str(server.server_address)), "test", "look"), "ml", "trainyard")


def test_a_release_without_backups_is_told(installed: Installed) -> None:
    with pytest.raises(CliError, match="trainyard in namespace ml makes no backups") as refused:
        backups.cron_job(installed, backups.BACKUP)
    assert "set backup.enabled to true" in refused.value.cure


def test_a_job_that_reads_only_has_one_container() -> None:
    job = backups.manifest(CRON_JOB, "1", reads_only=True)
    pod = job["spec"]["template"]["spec"]
    assert [each["command"][-1] for each in pod["containers"]] == ["list"] and pod["initContainers"] == []


def test_a_job_of_a_restore_names_its_backup_and_is_tried_once() -> None:
    job = backups.manifest(CRON_JOB, "1", backup="20261127-030000")
    fetch, place = job["spec"]["template"]["spec"]["initContainers"]
    assert fetch["env"][0] == {"name": "BACKUP", "value": "20261127-030000"}
    assert fetch["env"][1]["value"] == "/b" and place["command"][-1] == "place"
    assert job["spec"]["backoffLimit"] == 0
    assert job["metadata"]["ownerReferences"][0]["uid"] == "u1"
    assert CRON_JOB["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 2  # it is a copy


def test_a_restore_that_was_broken_off_goes_on(installed: Installed, server: Server) -> None:
    ended = {"conditions": [{"type": "Complete", "status": "True"}]}
    jobs = [
        backups.manifest(CRON_JOB, "1", reads_only=True),
        {**backups.manifest(CRON_JOB, "2", backup="old"), "status": ended},
        backups.manifest(CRON_JOB, "3", backup="new"),
    ]
    for number, job in enumerate(jobs):
        job["metadata"]["creationTimestamp"] = str(number)
    server.found["/apis/batch/v1/namespaces/ml/jobs"] = {"items": jobs}
    assert backups._under_way(installed, Backup("new", "")) == jobs[2]
    with pytest.raises(CliError, match="Job trainyard-restore-3 restores backup new"):
        backups._under_way(installed, Backup("old", ""))
    server.found["/apis/batch/v1/namespaces/ml/jobs"] = {"items": jobs[:2]}
    assert backups._under_way(installed, Backup("old", "")) is None


def test_the_newest_backup_is_taken_unless_one_is_named() -> None:
    old, new = Backup("20261126-030000", ""), Backup("20261127-030000", "")
    assert backups.chosen([old, new], "") is new
    assert backups.chosen([old, new], old.name) is old


@pytest.mark.parametrize(
    ("found", "name", "says"),
    [
        ([], "", "there is no backup\n  cure: ./scripts/backup makes one"),
        ([Backup("a", ""), Backup("b", "")], "c", "there is no backup c\n  cure: name one of these: a b"),
        (
            [Backup("a", "damaged", "error: it is damaged\n  cure: take b")],
            "",
            "it is damaged\n  cure: take b",
        ),
    ],
)
def test_what_cannot_be_restored_is_refused(found: list[Backup], name: str, says: str) -> None:
    with pytest.raises(CliError) as refused:
        backups.chosen(found, name)
    assert str(refused.value) == says


def test_what_a_container_refuses_is_the_error(installed: Installed) -> None:
    said = "mlflow: fine\nerror: the backup's airflow is of a newer version\n  cure: upgrade the release\n"
    pod = {
        "status": {
            "initContainerStatuses": [
                {
                    "name": "fetch",
                    "state": {"terminated": {"exitCode": 0, "message": "error: no\n  cure: no"}},
                },
                {"name": "check-airflow", "state": {"terminated": {"exitCode": 1, "message": said}}},
            ]
        }
    }
    error = backups._failure(installed, "trainyard-restore-1", pod)
    assert str(error) == "the backup's airflow is of a newer version\n  cure: upgrade the release"
    pod["status"]["initContainerStatuses"][1]["state"]["terminated"]["message"] = "Traceback\nOSError: full"
    error = backups._failure(installed, "trainyard-restore-1", pod)
    assert "failed in container check-airflow:\n  Traceback\n  OSError: full" in str(error)
    assert "describe pods -l job-name=trainyard-restore-1" in error.cure


def test_a_pod_that_took_too_much_room_is_told(installed: Installed) -> None:
    pod = {
        "metadata": {"labels": {"app.kubernetes.io/component": "backup"}},
        "status": {
            "reason": "Evicted",
            "message": 'Usage of EmptyDir volume "work" exceeds the limit "4Gi".',
        },
    }
    error = backups._failure(installed, "trainyard-backup-1", pod)
    assert 'was evicted: Usage of EmptyDir volume "work" exceeds' in error.message
    assert "raise backup.scratchSize and backup.resources.limits.ephemeral-storage" in error.cure
    pod["metadata"]["labels"] = {"app.kubernetes.io/component": "migrate-database"}
    assert "backup." not in backups._failure(installed, "migrate", pod).cure


def test_a_job_that_a_broken_off_restore_has_deleted_is_missed_first(
    installed: Installed, server: Server
) -> None:
    assert backups.newest_job(installed, "migrate-database") is None  # the release has no Airflow
    server.found["/api/v1/namespaces/ml/serviceaccounts"] = {"items": [{"metadata": {"name": "migrate"}}]}
    with Stages(Console(quiet=True)) as stages, pytest.raises(CliError) as refused:
        backups.restore(stages, installed, Backup("20261127-030000", ""))
    assert refused.value.message == "the release has no Job migrate-database"
    assert refused.value.cure.startswith("upgrade the release with the same values")
    assert refused.value.cure.endswith("then run ./scripts/restore 20261127-030000 again")


def test_only_the_workloads_of_the_release_are_waited_for(installed: Installed, server: Server) -> None:
    server.found["/apis/apps/v1/namespaces/ml/deployments"] = {"items": [{"metadata": {"name": "mlflow"}}]}
    assert installed.workloads() == {Identity("Deployment", "ml", "mlflow", "apps")}
    assert "labelSelector=app.kubernetes.io%2Finstance%3Dtrainyard" in server.asked[-1]


def test_a_job_that_argo_cd_has_made_meanwhile_is_followed(installed: Installed, server: Server) -> None:
    path = "/apis/batch/v1/namespaces/ml/jobs"
    metadata = {"name": "migrate", "namespace": "ml", "uid": "1", "creationTimestamp": "1"}
    old = {"metadata": metadata, "spec": {"template": {"metadata": {}, "spec": {}}}}
    new = {**old, "metadata": {**metadata, "uid": "2"}, "status": {"succeeded": 1}}
    server.found = {path: {"items": [old]}, f"{path}/migrate": old}
    server.made = {f"{path}/migrate": new}
    with Stages(Console(quiet=True)) as stages, stages("schema") as stage:
        backups.again(stage, installed, "migrate-database")
    server.made = {}
    server.found = {path: {"items": [old]}}
    with (
        Stages(Console(quiet=True)) as stages,
        pytest.raises(CliError, match="409"),
        stages("schema") as stage,
    ):
        backups.again(stage, installed, "migrate-database")


def test_a_job_is_made_again_as_it_was() -> None:
    made_by_cluster = {"batch.kubernetes.io/controller-uid": "x", "job-name": "j", "controller-uid": "x"}
    job = {
        "metadata": {
            "name": "j",
            "namespace": "ml",
            "uid": "x",
            "labels": {"a": "b", **made_by_cluster},
            "annotations": {"meta.helm.sh/release-name": "trainyard"},
        },
        "spec": {
            "selector": {"matchLabels": made_by_cluster},
            "template": {"metadata": {"labels": {"c": "d", **made_by_cluster}}, "spec": {}},
        },
        "status": {"succeeded": 1},
    }
    again = backups._fresh(job)
    assert again["metadata"]["labels"] == {"a": "b"} and "uid" not in again["metadata"]
    assert again["metadata"]["annotations"] == {"meta.helm.sh/release-name": "trainyard"}
    assert again["spec"] == {"template": {"metadata": {"labels": {"c": "d"}}, "spec": {}}}


def test_a_failed_run_of_a_cron_job_is_no_workload_that_is_not_ready(
    installed: Installed, server: Server
) -> None:
    """Or a backup that failed once would keep ./scripts/up from ever being done."""
    owner = {"kind": "CronJob", "name": "trainyard-backup", "uid": "u2"}
    failed = {"type": "Failed", "status": "True", "message": "BackoffLimitExceeded"}
    job = {
        "metadata": {"name": "run", "namespace": "ml", "ownerReferences": [owner], "creationTimestamp": "1"},
        "spec": {"selector": {}},
        "status": {"conditions": [failed]},
    }
    of_release = {**job, "metadata": {"name": "migrate", "namespace": "ml"}}
    server.found["/apis/batch/v1/namespaces/ml/jobs"] = {"items": [job, of_release]}
    assert [each.name for each in workloads.unready(installed.kube, ("ml",))] == ["migrate"]
    assert workloads.failed_run(installed.kube, "ml", "trainyard-backup") is not None


def test_sizes_are_told_in_units() -> None:
    summary = {
        "name": "a",
        "databases": {"airflow": 2 << 20, "mlflow": 512},
        "artifacts": {"files": 3, "size": 3 << 30},
    }
    assert backups._backup(summary).line == "airflow 2 MiB, mlflow 512 B, 3 artifacts 3.0 GiB"
    assert backups._backup({**summary, "artifacts": None}).line.endswith("no artifacts")
