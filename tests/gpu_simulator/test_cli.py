"""The simulator's other commands, and what it says to a wrong environment."""

import json

import pytest
from conftest import Simulator


def test_check_tells_whether_the_simulator_answers(running: Simulator):
    assert running.command("check").returncode == 0
    running.terminate()
    assert running.command("check").returncode == 1


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"GPU_COUNT": "none"}, "GPU_COUNT is 'none'"),
        ({"GPU_COUNT": "0"}, "GPU_COUNT is '0'"),
        ({"NODE_NAME": ""}, "NODE_NAME is not set"),
        ({"RESOURCE_NAME": "gpu"}, "RESOURCE_NAME is 'gpu'"),
        ({"DEVICE_PLUGIN_DIRECTORY": "/nowhere"}, "DEVICE_PLUGIN_DIRECTORY /nowhere is not a directory"),
    ],
)
def test_a_wrong_environment_is_named(simulator: Simulator, environment, message):
    ended = simulator.command(**environment)
    assert ended.returncode == 64
    assert message in json.loads(ended.stdout)["error"]


def test_an_unknown_device_cannot_be_marked(simulator: Simulator):
    ended = simulator.command("unhealthy", "GPU-worker-1-7")
    assert ended.returncode == 64
    assert "GPU-worker-1-0, GPU-worker-1-1" in json.loads(ended.stdout)["error"]


def test_device_ids_fit_the_api_and_differ(monkeypatch, tmp_path):
    from gpu_simulator.config import Config

    monkeypatch.setenv("GPU_COUNT", "8")
    monkeypatch.setenv("DEVICE_PLUGIN_DIRECTORY", str(tmp_path))
    ids = []
    for node in ("a" * 200, "a" * 199 + "b"):
        monkeypatch.setenv("NODE_NAME", node)
        ids += Config.from_environment().device_ids
    assert len(set(ids)) == 16
    assert max(map(len, ids)) <= 63
