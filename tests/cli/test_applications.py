"""What is read from Argo CD's objects.

Those in applications/ are real: `kubectl get applications -o json`, as tests/e2e/test_gitops.py brought them
about, with fewer objects and without what nobody reads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trainyard_cli import applications

Json = dict[str, Any]
COMMIT = "1" * 40


def application(**status: Any) -> Json:
    return {
        "metadata": {"name": "ml-dev", "namespace": "argocd"},
        "spec": {
            "source": {
                "path": "charts/trainyard",
                "targetRevision": "main",
                "helm": {"releaseName": "ml"},
            },
            "destination": {"server": "https://kubernetes.default.svc", "namespace": "models"},
        },
        "status": status,
    }


def resource(name: str, status: str, **more: Any) -> Json:
    return {"kind": "ConfigMap", "namespace": "models", "name": name, "status": status, **more}


def recorded(name: str) -> Json:
    found: Json = json.loads((Path(__file__).parent / f"applications/{name}.json").read_text())
    return found


@pytest.mark.parametrize(
    ("name", "sync", "health"),
    [
        ("new", "Unknown", "Unknown"),
        ("synced", "Synced", "Healthy"),
        ("drifted", "OutOfSync, syncing", "Missing"),
        ("bad-value", "Unknown", "Healthy"),
        ("refused", "OutOfSync, syncing", "Healthy"),
        ("ended", "Synced", "Healthy"),
        ("wrong-key", "Unknown", "Healthy"),
    ],
)
def test_states_of_a_real_application(name: str, sync: str, health: str) -> None:
    found = recorded(name)
    assert (applications.sync(found), applications.health(found)) == (sync, health)


INVALID = "is invalid: spec."
LISTED = "failed to list refs: "


@pytest.mark.parametrize(
    ("name", "what", "begins", "says"),
    [
        (
            "bad-value",
            ["ComparisonError"],
            "execution error at (trainyard/",
            "training.namespace: trainyard is",
        ),
        (
            "refused",
            [
                "Deployment trainyard/trainyard-mlflow",
                "CronJob trainyard/trainyard-mlflow-garbage-collection",
            ],
            'Deployment.apps "trainyard-mlflow" ' + INVALID,
            "value must be empty when `operator` is 'Exists'",
        ),
        (
            "ended",
            [
                "Deployment trainyard/trainyard-mlflow",
                "CronJob trainyard/trainyard-mlflow-garbage-collection",
            ],
            'Deployment.apps "trainyard-mlflow" ' + INVALID,
            "value must be empty when `operator` is 'Exists'",
        ),
        ("no-such-host", ["ComparisonError"], LISTED, "lookup nowhere.git.svc.cluster.local"),
        ("no-such-repository", ["ComparisonError"], LISTED + "repository not found", "repository not found"),
        (
            "unknown-host-key",
            ["ComparisonError"],
            LISTED + "ssh: handshake failed",
            "knownhosts: key is unknown",
        ),
        ("wrong-key", ["ComparisonError"], LISTED + "ssh: handshake failed", "unable to authenticate"),
    ],
)
def test_a_real_error_is_named_by_what_it_is_about(
    name: str, what: list[str], begins: str, says: str
) -> None:
    found = list(applications.errors(recorded(name)))
    assert [about for about, _ in found] == what
    assert found[0][1].startswith(begins) and says in found[0][1]
    assert applications.problem(recorded(name)) == found[0][1]


@pytest.mark.parametrize("name", ["new", "synced", "drifted"])
def test_a_real_application_without_an_error_has_none(name: str) -> None:
    assert list(applications.errors(recorded(name))) == []


def test_what_differs_in_a_real_application() -> None:
    mlflow = ["Service trainyard/trainyard-mlflow", "Deployment trainyard/trainyard-mlflow"]
    assert applications.differing(recorded("drifted")) == mlflow
    assert applications.differing(recorded("synced")) == []
    revision, at = applications.deployed(recorded("synced"))
    assert (len(revision), at) == (40, "2026-11-27T04:49:26Z")
    assert applications.environment(recorded("synced")) == "kind"
    assert applications.release(recorded("synced")) == ("trainyard", "trainyard")


def test_an_application_belongs_to_the_environment_in_its_name() -> None:
    found = application()
    assert applications.environment(found) == "dev"
    assert applications.release(found) == ("models", "ml")
    assert applications.is_in_cluster(found)
    assert applications.wanted_revision(found) == "main"


def test_what_is_deployed_is_the_last_sync_that_went_through() -> None:
    history = [
        {"revision": "0" * 40, "deployedAt": "2026-11-26T06:00:00Z"},
        {"revision": COMMIT, "deployedAt": "2026-11-26T07:00:00Z"},
    ]
    assert applications.deployed(application(history=history)) == (COMMIT, "2026-11-26T07:00:00Z")
    assert applications.deployed(application()) == ("", "")


def test_an_application_that_argo_cd_has_not_seen_yet_is_unknown() -> None:
    found = application()
    del found["status"]
    assert (applications.sync(found), applications.health(found)) == ("Unknown", "Unknown")
    assert applications.differing(found) == [] and list(applications.errors(found)) == []


def test_objects_that_differ_are_named() -> None:
    resources = [
        resource("same", "Synced"),
        resource("changed", "OutOfSync"),
        resource("gone", "OutOfSync", requiresPruning=True),
    ]
    found = application(sync={"status": "OutOfSync"}, resources=resources)
    assert applications.differing(found) == [
        "ConfigMap models/changed",
        "ConfigMap models/gone (not in git)",
    ]
    # While nothing can be rendered, Argo CD calls everything OutOfSync and to be pruned.
    assert applications.differing(application(sync={"status": "Unknown"}, resources=resources)) == []


def test_a_sync_under_way_is_told() -> None:
    running = application(sync={"status": "OutOfSync"}, operationState={"phase": "Running"})
    assert applications.sync(running) == "OutOfSync, syncing"
    assert list(applications.errors(running)) == []


@pytest.mark.parametrize("phase", [{"phase": "Failed"}, {"phase": "Running", "retryCount": 1}])
def test_a_failed_sync_names_the_objects_that_were_refused(phase: Json) -> None:
    results = [
        {**resource("a", "SyncFailed"), "message": "ConfigMap a is invalid: data: Too long"},
        {**resource("b", "Synced"), "message": "configured"},
    ]
    operation = {**phase, "message": "one or more objects failed", "syncResult": {"resources": results}}
    found = list(applications.errors(application(operationState=operation)))
    assert found == [("ConfigMap models/a", "ConfigMap a is invalid: data: Too long")]


def test_a_sync_that_failed_as_a_whole_gives_its_message() -> None:
    operation = {"phase": "Failed", "message": "resource :LimitRange is not permitted in project trainyard"}
    assert list(applications.errors(application(operationState=operation))) == [
        ("sync", "resource :LimitRange is not permitted in project trainyard")
    ]


def test_a_condition_is_cut_to_what_helm_said() -> None:
    message = (
        "Failed to load target state: failed to generate manifest for source 1 of 1: rpc error: "
        "code = Unknown desc = Manifest generation error (cached): failed to execute helm template command: "
        "`helm template .`"
        " failed exit status 1: Error: values don't meet the specifications\n\nUse --debug flag to render"
    )
    found = application(conditions=[{"type": "ComparisonError", "message": message}])
    assert list(applications.errors(found)) == [
        ("ComparisonError", "values don't meet the specifications"),
    ]


def test_a_warning_stops_no_sync() -> None:
    warning = {"type": "SharedResourceWarning", "message": "ConfigMap/a is part of applications b and c"}
    found = application(conditions=[warning])
    assert [what for what, _ in applications.errors(found)] == ["SharedResourceWarning"]
    assert applications.problem(found) == ""
    error = {"type": "InvalidSpecError", "message": "application repo https://a is not permitted"}
    assert applications.problem(application(conditions=[warning, error])) == error["message"]


def test_a_sync_that_went_through_at_last_is_no_problem() -> None:
    operation = {"phase": "Succeeded", "retryCount": 2, "message": "successfully synced"}
    assert applications.problem(application(operationState=operation)) == ""


def test_an_application_set_says_why_it_makes_no_applications() -> None:
    conditions = [
        {
            "type": "ErrorOccurred",
            "status": "True",
            "message": "rpc error: code = Unknown desc = no such host",
        },
        {"type": "ResourcesUpToDate", "status": "False", "message": "no such host"},
    ]
    assert list(applications.errors_of_set({"status": {"conditions": conditions}})) == ["no such host"]
    over = [{"type": "ErrorOccurred", "status": "False", "message": "generated successfully"}]
    assert list(applications.errors_of_set({"status": {"conditions": over}})) == []


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (
            "rpc error: code = Unknown desc = failed to list refs: ssh: handshake failed: "
            "knownhosts: key mismatch",
            "failed to list refs: ssh: handshake failed: knownhosts: key mismatch",
        ),
        ("resource :LimitRange is not permitted", "resource :LimitRange is not permitted"),
        (
            'Deployment.apps "mlflow" is invalid: must be less than or equal to memory limit',
            'Deployment.apps "mlflow" is invalid: must be less than or equal to memory limit',
        ),
    ],
)
def test_the_cause_is_what_the_innermost_said(message: str, cause: str) -> None:
    assert applications.cause(message) == cause
