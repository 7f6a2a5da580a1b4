"""A DAG on this machine without a cluster; nothing of it touches that of the other tests."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path

import pytest
from conftest import ROOT
from trainyard_cli.local import LABEL

RUN = (str(ROOT / "scripts/run"), "--local")


def containers(docker: str) -> list[str]:
    listed = [docker, "ps", "--all", "--quiet", f"--filter=label={LABEL}"]
    return subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()


def run(dag: str, *options: str) -> tuple[int, str]:
    done = subprocess.run([*RUN, dag, *options], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_dag_runs_without_a_cluster(docker: str) -> None:
    conf = {"model_name": f"local-{uuid.uuid4().hex[:8]}", "epochs": 2}
    code, printed = run("digits_training", "--conf", json.dumps(conf))
    assert code == 0, printed
    assert f"{conf['model_name']} v1 is now challenger: 0." in printed
    assert containers(docker) == []


@pytest.mark.nightly
def test_what_needs_a_cluster_fails_and_says_so(docker: str) -> None:
    code, printed = run("digits_training", "--conf", '{"nodes": 2}')
    assert code == 1, printed
    assert "bad_config: nodes=2: without a cluster a training has one node" in printed
    assert containers(docker) == []


def test_each_instance_of_a_mapped_group_goes_on_with_its_own_data() -> None:
    code, printed = run("each_day", "--dags", str(Path(__file__).parent / "dags"))
    assert code == 0, printed
    for date in ("2026-01-01", "2026-01-02"):
        assert f"step preprocess of file:///data/raw/digits/date={date}/" in printed
        # Written now, or by a run before this one.
        assert f"step_done step=preprocess dataset=file:///data/processed/digits/date={date}/" in printed


@pytest.mark.nightly
def test_a_dag_that_is_not_there_is_named() -> None:
    code, printed = run("nowhere")
    assert code == 1
    assert "Dag 'nowhere' could not be found" in printed
