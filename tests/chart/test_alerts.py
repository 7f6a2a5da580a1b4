"""Whom to alert comes from an optional Secret, which only what sends alerts can read."""

from __future__ import annotations

import json

import pytest
from components import VARIANTS
from render import find, pod_spec, render_chart, worker_pod
from trainyard.alerts.receivers import DIRECTORY

SENDERS = ("trainyard-dag-processor", "trainyard-triggerer")


@pytest.mark.parametrize("files", VARIANTS)
@pytest.mark.parametrize("name", SENDERS)
def test_senders_have_the_secret_if_there_is_one(files: tuple[str, ...], name: str) -> None:
    spec = pod_spec(find(render_chart(files=files), "Deployment", name))
    secret = {"secretName": "trainyard-alerts", "optional": True}
    (volume,) = [volume for volume in spec["volumes"] if volume.get("secret") == secret]
    (mount,) = [one for one in spec["containers"][0]["volumeMounts"] if one["name"] == volume["name"]]
    # No subPath: what is mounted by one stays as it was when the pod began.
    assert mount == {"name": volume["name"], "mountPath": str(DIRECTORY), "readOnly": True}


def test_nobody_else_has_it() -> None:
    objects = render_chart()
    assert "trainyard-alerts" not in json.dumps(worker_pod(objects))
    for one in objects:
        if one["metadata"]["name"] not in SENDERS:
            assert "trainyard-alerts" not in json.dumps(one), one["metadata"]["name"]
