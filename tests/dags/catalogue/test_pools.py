"""The whole catalogue on platforms with other GPU pools, mount paths and volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fresh_process import output_of

ROOT = Path(__file__).parents[3]
PLATFORM_FILE = ROOT / "tests/dags/platform.json"
CODE = """
import json
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=".", collect_dags=True)
assert not bag.import_errors, bag.import_errors
print(json.dumps({
    dag.dag_id: {
        "choices": dag.params.get_param("pool").schema["enum"] if "pool" in dag.params else None,
        "chosen": dag.params["pool"] if "pool" in dag.params else None,
        "tasks": {
            task.task_id: {
                "pool": task.partial_kwargs.get("pool") if task.is_mapped else task.pool,
                "request": task.start_trigger_args.trigger_kwargs["request"],
            }
            for task in dag.tasks if task.start_trigger_args
        },
    }
    for dag in bag.dags.values()
}, default=str))
"""


def catalogue(folder: Path, pools: dict[str, bool], **training: Any) -> dict[str, Any]:
    """What the catalogue is on a platform with `pools`, by name: whether they are spot."""
    platform = json.loads(PLATFORM_FILE.read_text())
    one = platform["pools"]["ondemand"]
    platform["pools"] = {
        name: {**one, "spot": spot, "airflowPool": f"gpu-{name}"} for name, spot in pools.items()
    }
    # The library derives the default pools, unless a test names them.
    platform["training"] |= {"defaultPool": None, "defaultSpotPool": None, **training}
    (folder / "platform.json").write_text(json.dumps(platform))
    output = output_of(CODE, ROOT / "dags", TRAINYARD_PLATFORM=str(folder / "platform.json"))
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    assert {"digits_training", "fraud_training", "hyperparameter_sweep"} <= found.keys()
    return found


def training_tasks(dags: dict[str, Any]) -> dict[str, Any]:
    """The tasks that train, by DAG and task."""
    return {
        f"{dag_id}.{task_id}": task
        for dag_id, dag in dags.items()
        for task_id, task in dag["tasks"].items()
        if task["request"].get("step") == "train"
    }


# By `default-spot` in their model files.
ON_SPOT = {"fraud_training", "residual_training", "characters_training"}


@pytest.mark.parametrize(
    ("pools", "default", "spot"),
    [({"a100": False}, "a100", "a100"), ({"100": False, "4090": True}, "100", "4090")],
    ids=["one", "numbers"],
)
def test_gpus_by_any_name(tmp_path: Path, pools: dict[str, bool], default: str, spot: str) -> None:
    dags = catalogue(tmp_path, pools)
    for dag_id, dag in dags.items():
        if dag["choices"]:
            assert dag["choices"] == sorted(pools), dag_id
            assert dag["chosen"] == (spot if dag_id in ON_SPOT else default), dag_id
    tasks = training_tasks(dags)
    assert len(tasks) == 11
    for name, task in tasks.items():
        assert task["request"]["gpu_pool"] == "{{ params.pool }}", name
        assert task["pool"] == f"gpu-{spot if name.partition('.')[0] in ON_SPOT else default}", name
        assert task["request"]["escalate_to"] in (None, default), name


def test_no_gpu_at_all(tmp_path: Path) -> None:
    dags = catalogue(tmp_path, {})
    assert {tuple(dag["choices"]) for dag in dags.values() if dag["choices"]} == {("cpu",)}
    tasks = training_tasks(dags)
    assert len(tasks) == 11
    for name, task in tasks.items():
        assert task["request"]["gpu_pool"] is None, name
        assert task["request"]["escalate_to"] is None, name
        assert task["pool"] in (None, "default_pool"), name


def test_the_chart_says_which_pool_is_the_default(tmp_path: Path) -> None:
    pools = {"a": False, "b": False, "c": True, "d": True}
    dags = catalogue(tmp_path, pools, defaultPool="b", defaultSpotPool="d")
    assert dags["digits_training"]["chosen"] == "b"
    assert dags["fraud_training"]["chosen"] == "d"


def test_uris_follow_the_mount_paths(tmp_path: Path) -> None:
    volumes = {
        "datasets": {"claimName": "d", "mountPath": "/lake"},
        "checkpoints": {"claimName": "c", "mountPath": "/mnt/state"},
    }
    dags = catalogue(tmp_path, {"a100": False}, volumes=volumes)
    requests = json.dumps([task["request"] for dag in dags.values() for task in dag["tasks"].values()])
    assert "file:///lake" in requests and "file:///mnt/state" in requests
    assert "file:///data" not in requests and "file:///checkpoints" not in requests


def test_uris_follow_the_object_store(tmp_path: Path) -> None:
    volumes = {"datasets": {"uri": "s3://lake/data"}, "checkpoints": {"uri": "s3://state"}}
    dags = catalogue(tmp_path, {"a100": False}, volumes=volumes)
    requests = json.dumps([task["request"] for dag in dags.values() for task in dag["tasks"].values()])
    assert "s3://lake/data/incoming/" in requests and "s3://state/" in requests
    assert "file://" not in requests and "s3://incoming" not in requests
