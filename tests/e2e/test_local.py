"""A DAG on this machine without a cluster; nothing of it touches that of the other tests."""

from __future__ import annotations

import subprocess
import uuid

import pytest
from conftest import ROOT
from trainyard_cli.local import LABEL

RUN = (str(ROOT / "scripts/run"), "--local")


def containers(docker: str) -> list[str]:
    listed = [docker, "ps", "--all", "--quiet", f"--filter=label={LABEL}"]
    return subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize(
    ("conf", "code", "says"),
    [
        pytest.param('{"epochs": 2}', 0, "v1 is now challenger: 0.", id="a model"),
        pytest.param(
            '{"epochs": 2, "nodes": 2}',
            1,
            "bad_config: nodes=2: without a cluster a training has one node",
            id="what needs a cluster",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_a_dag_runs_without_a_cluster(docker: str, conf: str, code: int, says: str) -> None:
    name = f"local-{uuid.uuid4().hex[:8]}"
    conf = f'{conf[:-1]}, "model_name": "{name}"}}'
    done = subprocess.run([*RUN, "digits_training", "--conf", conf], capture_output=True, text=True)
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed
    assert says in printed
    assert containers(docker) == []
