"""Which workloads a command waits for."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from trainyard_cli import workloads


class Cluster:
    """Has three Jobs that failed, and nothing else."""

    def items(self, path: str, **_: Any) -> list[dict[str, Any]]:
        return [FAILED, OF_CRON_JOB, OF_TASK] if path.endswith("/jobs") else []


def job(name: str, **metadata: Any) -> dict[str, Any]:
    failed = {"type": "Failed", "status": "True", "message": "Job has reached the specified backoff limit"}
    meta = {"name": name, "namespace": "ml", "generation": 1, **metadata}
    return {"metadata": meta, "spec": {"selector": {}}, "status": {"conditions": [failed]}}


FAILED = job("bootstrap")
OF_CRON_JOB = job("cleanup-1", ownerReferences=[{"kind": "CronJob", "name": "cleanup"}])
OF_TASK = job("digits-train-1", labels={"trainyard.dev/task-id": "train"})


def test_what_comes_and_goes_is_not_waited_for() -> None:
    """A gang that failed, and is kept for inspection, once stopped every upgrade."""
    cluster: Any = Cluster()
    assert [each.name for each in workloads.unready(cluster, ["ml"])] == ["bootstrap"]


class Refusing:
    """Has a StatefulSet whose server ends with an error."""

    selector: ClassVar = {"matchLabels": {"app": "database"}}
    waiting: ClassVar = {"waiting": {"reason": "CrashLoopBackOff"}}

    def __init__(self, words: str) -> None:
        self.words = words

    def get(self, path: str) -> dict[str, Any]:
        assert path == "/apis/apps/v1/namespaces/ml/statefulsets/database"
        return {"spec": {"selector": self.selector}}

    def items(self, path: str, **_: Any) -> list[dict[str, Any]]:
        status = {"containerStatuses": [{"name": "server", "ready": False, "state": self.waiting}]}
        pod = {"metadata": {"name": "database-0", "labels": {"app": "database"}}, "status": status}
        return [pod] if path.endswith("/pods") else []

    def logs(self, namespace: str, pod: str, container: str, previous: bool = False) -> str:
        return self.words if previous else ""


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        ("error: the data is of version 15\n  cure: move it\n", "move it"),
        ("Segmentation fault\n", "kubectl describe -n ml statefulset/database"),
    ],
)
def test_a_program_that_names_its_cure_is_believed(words: str, cure: str) -> None:
    cluster: Any = Refusing(words)
    error = workloads.not_ready(
        cluster, workloads.Workload("StatefulSet", "ml", "database", "CrashLoopBackOff")
    )
    assert cure in error.cure
    assert words.splitlines()[0] in error.message
