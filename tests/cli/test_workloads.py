"""Which workloads a command waits for."""

from __future__ import annotations

from typing import Any

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
