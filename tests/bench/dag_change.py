"""Seconds from a changed DAG file to a running task of the new DAG, on the running cluster.

    ./scripts/_python --dev python tests/bench/dag_change.py

Works on a copy of the checkout with one more tag in digits_training, through the same two commands as a user.
Run it once more before you compare: the first time builds what the checkout itself has not built yet.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
DAG = "dags/digits_training.py"
sys.path.insert(0, str(ROOT / "scripts"))

from trainyard_cli.platform import connect  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="dag-change-") as directory:
        copy = Path(directory) / "trainyard"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", ".*_cache"))
        tag = f"changed-{int(time.time())}"
        file = copy / DAG
        text = file.read_text()
        changed = text.replace('tags=["training"', f'tags=["{tag}", "training"', 1)
        assert changed != text, f"{DAG} has no tags to add to"
        file.write_text(changed)

        start = time.monotonic()
        subprocess.run([copy / "scripts/up", "--no-train"], check=True)
        released = time.monotonic() - start
        run_id = f"bench-{tag}"
        trigger = [copy / "scripts/run", "digits_training", "--no-follow", "--run-id", run_id]
        subprocess.run(
            [*trigger, "--conf", json.dumps({"epochs": 1, "model_name": "digits-bench"})], check=True
        )
        airflow = connect().airflow
        while not any(
            task["state"] == "success" for task in airflow.task_instances("digits_training", run_id)
        ):
            assert airflow.dag_run("digits_training", run_id)["state"] != "failed"
            time.sleep(0.5)
        total = time.monotonic() - start
        (dag,) = [each for each in airflow.dags() if each["dag_id"] == "digits_training"]
        assert tag in {each["name"] for each in dag["tags"]}, "an older DAG ran"
    print(f"DAG changed -> released {released:.1f} s -> its first task done {total:.1f} s")


if __name__ == "__main__":
    main()
