"""What is read from Argo CD's objects."""

from __future__ import annotations

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
