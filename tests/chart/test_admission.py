"""Admission policies allow what the chart's own pods have, and what the values add."""

from __future__ import annotations

from typing import Any

import pytest
from render import Object, find, identity, render_chart

WORKERS, JOBS = "trainyard-trainyard-worker-pods", "trainyard-trainyard-maintenance-jobs"
SECRET = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "mine", "key": "k"}}}
VOLUME = {"name": "a", "secret": {"secretName": "mine"}}
POD = """
kind: Pod
spec:
  serviceAccountName: own
  containers: [{name: base, envFrom: [{secretRef: {name: mine}}], securityContext: {privileged: true}}]
"""


def policy(name: str, values: Object | None = None) -> str:
    """All that a policy says, as text."""
    return str(find(render_chart(values=values), "ValidatingAdmissionPolicy", name)["spec"])


@pytest.mark.parametrize(
    "airflow",
    [
        {"workers": {"env": [SECRET]}},
        {"env": [SECRET]},
        {"secret": [{"envName": "A", "secretName": "mine", "secretKey": "k"}]},
        {"extraEnv": "- {name: A, valueFrom: {secretKeyRef: {name: mine, key: k}}}"},
        {"extraEnvFrom": "- secretRef: {name: mine}"},
        {"workers": {"extraVolumes": [VOLUME]}},
        {"workers": {"kubernetes": {"extraVolumes": [VOLUME]}}},
        {"volumes": [{"name": "a", "projected": {"sources": [{"secret": {"name": "mine"}}]}}]},
        {"workers": {"extraContainers": [{"name": "b", "image": "c:d", "env": [SECRET]}]}},
        {"podTemplate": POD},
    ],
    ids=lambda value: str(value)[:50],
)
def test_worker_pods_may_have_the_secrets_that_values_give_them(airflow: Object) -> None:
    assert "mine" not in policy(WORKERS)
    assert '["","mine"]' in policy(WORKERS, {"airflow": airflow})


def test_a_pod_template_of_the_user_may_be_what_it_is() -> None:
    assert "is not privileged" in policy(WORKERS)
    own = policy(WORKERS, {"airflow": {"podTemplate": POD}})
    assert 'in ["own"]' in own and "is not privileged" not in own


def test_a_directory_of_the_host_is_only_what_values_say() -> None:
    volume = {"name": "a", "hostPath": {"path": "/mnt/a"}}
    said = policy(WORKERS, {"airflow": {"workers": {"extraVolumes": [volume]}}})
    assert '"hostPath"' in said and 'in ["","/mnt/a"]' in said
    assert '"hostPath"' not in policy(WORKERS)


def test_what_a_dag_overrides_may_be_added() -> None:
    more = {"serviceAccounts": ["cloud"], "secrets": ["mine"]}
    said = policy(WORKERS, {"admissionPolicies": {"workers": more}})
    assert 'in ["cloud","trainyard-airflow-worker"]' in said and '["","mine"]' in said
    assert "the Secrets mine;" in said


def test_jobs_are_those_of_the_cron_jobs_that_there_are() -> None:
    both = policy(JOBS)
    assert "clean_database.py" in both and "collect_garbage.py" in both
    one = policy(JOBS, {"mlflow": {"garbageCollection": {"enabled": False}}})
    assert "clean_database.py" in one and "mlflow" not in one


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({"admissionPolicies": {"enabled": False}}, set()),
        ({"airflow": {"enabled": False}}, {"bootstrap-secrets"}),
        (
            {"airflow": {"enabled": False}, "externalAirflow": {"namespace": "a", "serviceAccounts": ["b"]}},
            {"bootstrap-secrets", "maintenance-jobs"},
        ),
        ({"secrets": {"bootstrap": {"enabled": False}}}, {"maintenance-jobs", "pod-labels", "worker-pods"}),
    ],
)
def test_there_is_a_policy_for_each_right_that_there_is(values: dict[str, Any], left: set[str]) -> None:
    objects = render_chart(values=values)
    for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
        found = {identity(one)[1] for one in objects if one["kind"] == kind}
        assert found == {f"trainyard-trainyard-{name}" for name in left}


def test_a_policy_is_for_the_service_accounts_of_its_release() -> None:
    values = {"airflow": {"enabled": False}, "externalAirflow": {"namespace": "a", "serviceAccounts": ["b"]}}
    assert "system:serviceaccount:a:b" in policy(JOBS, values)
    values = {"airflow": {"scheduler": {"serviceAccount": {"create": False, "name": "own"}}}}
    assert "system:serviceaccount:trainyard:own" in policy(WORKERS, values)
