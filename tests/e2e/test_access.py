"""What the ServiceAccounts may do, as the API server says: by RBAC, and by the chart's admission policies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from conftest import NAMESPACE
from kubernetes import client
from pods import component_of
from rights import RIGHTS, Rules, rules_of

SPACES = sorted({account.partition("/")[0] for account in RIGHTS})
# This authorizer cannot list its rules, which are for kubelets.
NO_RULES = "node authorizer does not support user rule resolution"
POD_NAME = "Impersonate-Extra-authentication.kubernetes.io%2Fpod-name"

Json = dict[str, Any]


def acting_as(core: client.CoreV1Api, account: str, **headers: str) -> client.ApiClient:
    """A client that is a ServiceAccount (NAMESPACE/NAME) to the API server."""
    api = client.ApiClient(core.api_client.configuration)
    api.set_default_header("Impersonate-User", f"system:serviceaccount:{account.replace('/', ':')}")
    for name, value in headers.items():
        api.set_default_header(name, value)
    return api


def rules(core: client.CoreV1Api, account: str, namespace: str) -> Rules:
    """What a ServiceAccount may do in a namespace, by whatever binding."""
    review = {"spec": {"namespace": namespace}}
    answer = client.AuthorizationV1Api(acting_as(core, account)).create_self_subject_rules_review(review)
    assert answer.status.evaluation_error in (None, NO_RULES)
    return rules_of(core.api_client.sanitize_for_serialization(answer.status.resource_rules))


@pytest.mark.parametrize("namespace", [*SPACES, "default", "kube-system"])
def test_every_service_account_may_do_exactly_what_is_written(core: client.CoreV1Api, namespace: str) -> None:
    everybody = rules(core, f"{NAMESPACE}/e2e-nobody", namespace)
    for account in RIGHTS:
        found = {key: verbs for key, verbs in rules(core, account, namespace).items() if key not in everybody}
        assert found == RIGHTS[account].get(namespace, {}), account


def test_every_service_account_is_written(core: client.CoreV1Api) -> None:
    for namespace in SPACES:
        names = {one.metadata.name for one in core.list_namespaced_service_account(namespace).items}
        of_release = {
            name for name in names if f"{namespace}/{name}" in RIGHTS or name.startswith("trainyard")
        }
        assert {f"{namespace}/{name}" for name in of_release} <= RIGHTS.keys()
        assert rules(core, f"{namespace}/default", namespace) == rules(
            core, f"{namespace}/e2e-nobody", namespace
        )


def secret_variable(pod: Json) -> None:
    source = {"secretKeyRef": {"name": "trainyard-fernet-key", "key": "fernet-key"}}
    pod["containers"][0]["env"].append({"name": "A", "valueFrom": source})


def secret_variables(pod: Json) -> None:
    pod["containers"][0]["envFrom"] = [{"secretRef": {"name": "trainyard-fernet-key"}}]


def secret_of_an_init_container(pod: Json) -> None:
    first = copy.deepcopy(pod["containers"][0])
    pod["initContainers"] = [*pod.get("initContainers", []), {**first, "name": "first"}]
    secret_variable({"containers": [pod["initContainers"][-1]]})


def secret_volume(pod: Json) -> None:
    pod["volumes"].append({"name": "a", "secret": {"secretName": "trainyard-fernet-key"}})


def projected_secret(pod: Json) -> None:
    sources = [{"secret": {"name": "trainyard-fernet-key"}}]
    pod["volumes"].append({"name": "a", "projected": {"sources": sources}})


def secret_of_a_driver(pod: Json) -> None:
    driver = {"driver": "a.example.com", "nodePublishSecretRef": {"name": "trainyard-fernet-key"}}
    pod["volumes"].append({"name": "a", "csi": driver})


def other_account(pod: Json) -> None:
    pod["serviceAccountName"] = "trainyard-bootstrap-secrets"


def no_account(pod: Json) -> None:
    """Then it is the namespace's own."""
    for field in ("serviceAccountName", "serviceAccount"):
        pod.pop(field, None)


def host_path(pod: Json) -> None:
    pod["volumes"].append({"name": "a", "hostPath": {"path": "/"}})


def privileged(pod: Json) -> None:
    pod["containers"][0]["securityContext"] = {"privileged": True}


def other_program(pod: Json) -> None:
    pod["containers"][0]["command"] = ["sh", "-c", "env"]


REFUSED: list[tuple[Callable[[Json], None], str]] = [
    *(
        (change, "Another one is in: container")
        for change in (secret_variable, secret_variables, secret_of_an_init_container)
    ),
    *(
        (change, "Another one is in: volume a")
        for change in (secret_volume, projected_secret, secret_of_a_driver)
    ),
    *((change, "runs as the ServiceAccount trainyard-") for change in (other_account, no_account)),
    # The namespace's level may be the first to say so.
    *((change, "kinds|is not privileged|violates PodSecurity") for change in (host_path, privileged)),
]
each_refused = pytest.mark.parametrize(
    ("change", "says"), REFUSED, ids=lambda value: getattr(value, "__name__", "")
)


@pytest.fixture(scope="module")
def create_worker(core: client.CoreV1Api) -> Callable[..., None]:
    """Has the scheduler create a worker pod, which is not kept."""
    held = core.read_namespaced_config_map("trainyard-pod-template", NAMESPACE).data
    scheduler = client.CoreV1Api(acting_as(core, f"{NAMESPACE}/trainyard-scheduler"))

    def _create(change: Callable[[Json], None] = lambda _: None) -> None:
        pod = yaml.safe_load(held["pod_template_file.yaml"])
        pod["metadata"]["name"] = "e2e-worker"
        change(pod["spec"])
        scheduler.create_namespaced_pod(NAMESPACE, pod, dry_run="All")

    return _create


@each_refused
def test_the_scheduler_creates_no_pod_with_the_power_of_another(create_worker, change, says: str) -> None:
    with pytest.raises(client.ApiException, match=says):
        create_worker(change)


def test_the_scheduler_creates_worker_pods(create_worker) -> None:
    create_worker()
    create_worker(lambda pod: pod["volumes"].append({"name": "a", "configMap": {"name": "trainyard-config"}}))


def test_the_scheduler_changes_labels_of_pods_and_nothing_else(core: client.CoreV1Api) -> None:
    """Another image in a pod of the triggerer would get the triggerer's Secrets."""
    name = component_of(core, "triggerer", NAMESPACE)
    scheduler = client.CoreV1Api(acting_as(core, f"{NAMESPACE}/trainyard-scheduler"))
    scheduler.patch_namespaced_pod(name, NAMESPACE, {"metadata": {"labels": {"a": "b"}}}, dry_run="All")
    image = {"spec": {"containers": [{"name": "triggerer", "image": "example.com/a:b"}]}}
    with pytest.raises(client.ApiException, match="the scheduler changes labels of pods, and nothing else"):
        scheduler.patch_namespaced_pod(name, NAMESPACE, image, dry_run="All")


@pytest.fixture(scope="module", params=["trainyard-database-cleanup", "trainyard-mlflow-garbage-collection"])
def create_job(request: pytest.FixtureRequest, core: client.CoreV1Api) -> Callable[..., None]:
    """Has the triggerer create a Job of a CronJob of the maintenance, which is not kept."""
    cron_job = client.BatchV1Api(core.api_client).read_namespaced_cron_job(request.param, NAMESPACE)
    template = core.api_client.sanitize_for_serialization(cron_job.spec.job_template)
    triggerer = client.BatchV1Api(acting_as(core, f"{NAMESPACE}/trainyard-triggerer"))

    def _create(change: Callable[[Json], None] = lambda _: None) -> None:
        job = copy.deepcopy(template)
        job["metadata"]["name"] = "e2e-maintenance"
        change(job["spec"]["template"]["spec"])
        triggerer.create_namespaced_job(NAMESPACE, job, dry_run="All")

    return _create


@each_refused
def test_the_triggerer_creates_no_job_with_the_power_of_another(create_job, change, says: str) -> None:
    with pytest.raises(client.ApiException, match=says.replace("|violates PodSecurity", "")):
        create_job(change)


def test_the_triggerer_creates_jobs_of_the_maintenance_only(create_job) -> None:
    create_job()
    create_job(lambda pod: pod["containers"][0]["env"][1].update(value="true"))
    with pytest.raises(client.ApiException, match="runs the image, the command and the arguments"):
        create_job(other_program)


@pytest.mark.parametrize(
    ("name", "kind", "pod", "says"),
    [
        ("trainyard-fernet-key", "Opaque", "trainyard-bootstrap-secrets-1234-5", "already exists"),
        ("e2e-other", "Opaque", "trainyard-bootstrap-secrets-1234-5", "that the platform needs"),
        (
            "trainyard-fernet-key",
            "kubernetes.io/service-account-token",
            "trainyard-bootstrap-secrets-1234-5",
            "of type Opaque",
        ),
        ("trainyard-fernet-key", "Opaque", "e2e-other", "nobody but a pod of the bootstrap Job"),
        ("trainyard-fernet-key", "Opaque", "", "nobody but a pod of the bootstrap Job"),
    ],
)
def test_the_bootstrap_job_creates_what_is_missing_and_nothing_else(
    core: client.CoreV1Api, name: str, kind: str, pod: str, says: str
) -> None:
    headers = {POD_NAME: pod} if pod else {}
    api = client.CoreV1Api(acting_as(core, f"{NAMESPACE}/trainyard-bootstrap-secrets", **headers))
    annotations = {"kubernetes.io/service-account.name": "trainyard-triggerer"}
    secret = {"metadata": {"name": name, "annotations": annotations}, "type": kind}
    with pytest.raises(client.ApiException, match=says):
        api.create_namespaced_secret(NAMESPACE, secret, dry_run="All")
