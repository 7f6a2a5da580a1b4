"""What of a cluster's objects becomes the status of an environment, and how it is shown."""

from __future__ import annotations

import base64
import gzip
import io
import json
from pathlib import Path
from typing import Any

from repositories import Checkout, environment, file
from rich.console import Console
from trainyard_cli import helm_release, status, workloads
from trainyard_cli.status import ARGO_CD, Problem, State, Status

Json = dict[str, Any]
OLD, NEW = "1" * 40, "2" * 40


def shown(found: Status) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    status.show(found, console)
    return console.export_text()


def test_a_broken_environment_does_not_hide_the_others(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    checkout.write({file("dev"): environment(), file("test"): environment(revison="main")})
    known, problems = status.of_checkout(checkout.repository)
    assert [each.name for each in known] == ["dev"]
    assert [(each.what, each.cure[:22]) for each in problems] == [
        ("environment test", "did you mean revision?")
    ]


def test_images_are_shown_in_short() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    references = [f"reg.example.com:5000/team/mlflow:1@{digest}", "trainyard/airflow:0.1", f"x/y@{digest}"]
    assert status.short_images(references) == ["airflow:0.1", "mlflow:1@0123456789ab", "y@0123456789ab"]


def test_the_table_says_what_is_deployed_and_what_is_wanted() -> None:
    state = State("dev", ARGO_CD, OLD, NEW, "2026-11-26T07:00:09Z", "OutOfSync", "Healthy")
    lines = [" ".join(line.split()) for line in shown(Status([state])).splitlines()]
    assert lines[1:] == [
        "dev 111111111111 2026-11-26 07:00 OutOfSync Healthy",
        "",
        "dev",
        "wants: 222222222222",
    ]
    branch = State("dev", ARGO_CD, OLD, "main", "", "Synced", "Healthy")
    assert "wants: main" in shown(Status([branch]))
    same = State("dev", ARGO_CD, OLD, OLD, "", "Synced", "Healthy")
    assert "wants" not in shown(Status([same]))


def test_an_environment_without_an_application_says_so() -> None:
    assert "staging no Application" in " ".join(shown(Status([State("staging")])).split())


def test_problems_have_their_cause_and_their_cure() -> None:
    problem = Problem("Deployment ml/model", "no image\nat all", "push it")
    lines = shown(Status([State("dev", differs=["ConfigMap ml/c"], problems=[problem])])).splitlines()
    assert lines[-5:] == [
        "dev",
        "  differs: ConfigMap ml/c",
        "  Deployment ml/model: no image",
        "    at all",
        "    cure: push it",
    ]


def test_json_has_everything() -> None:
    found = Status([State("dev", problems=[Problem("a", "b", "c")])], [Problem("d", "e")])
    content = json.loads(json.dumps(found.as_json()))
    assert content["environments"][0]["problems"] == [{"what": "a", "why": "b", "cure": "c"}]
    assert content["problems"] == [{"what": "d", "why": "e", "cure": ""}]


def test_helms_record_is_read() -> None:
    content = {
        "name": "trainyard",
        "namespace": "ml",
        "version": 3,
        "info": {"status": "failed", "last_deployed": "2026-11-26T07:00:00Z", "description": "timed out"},
        "chart": {"metadata": {"name": "trainyard", "version": "0.1.0"}},
        "manifest": "---\nkind: ConfigMap\n---\n",
    }
    packed = gzip.compress(json.dumps(content).encode())
    record = {"data": {"release": base64.b64encode(base64.b64encode(packed)).decode()}}
    found = helm_release.decode(record)
    assert (found.revision, found.status, found.chart) == (3, "failed", "trainyard-0.1.0")
    assert found.objects == [{"kind": "ConfigMap"}]


def deployment(**condition: str) -> Json:
    return {
        "metadata": {"namespace": "ml", "name": "model"},
        "spec": {"selector": {"matchLabels": {}}},
        "status": {"conditions": [condition]},
    }


def test_a_deployment_that_may_not_make_pods_says_why() -> None:
    refused = {
        "type": "ReplicaFailure",
        "status": "True",
        "message": 'pods "x" is forbidden: exceeded quota: q',
    }
    assert workloads._explain("Deployment", deployment(**refused), []).why == refused["message"]
    over = {**refused, "status": "False"}
    assert workloads._explain("Deployment", deployment(**over), []).why == "no pod yet"
