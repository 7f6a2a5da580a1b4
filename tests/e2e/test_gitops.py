"""Argo CD takes the release over from Helm, follows commits to the git server, and gives it back.

The tests share one hand-over and run as written, until one hands the release back to Helm. Those after it
hand over and back once more, with other content.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import NAMESPACE, ROOT, up
from git_server import new_key
from kubernetes import client
from pods import PodRecorder, output_of, wait_until
from trainyard.platform import DEFAULT_PATH
from trainyard_cli import applications, chart, gitops, helm_release, workloads
from trainyard_cli.kube import Kube
from trainyard_cli.names import RELEASE

pytestmark = pytest.mark.alone

Json = dict[str, Any]

ENVIRONMENT = "values/environments/kind"
NAMESPACES = (NAMESPACE, "ml-training", "ml-serving", "nvidia-device-plugin")
KINDS = (
    *(
        "namespaces",
        "priorityclasses",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "deployments",
        "statefulsets",
        "daemonsets",
        "jobs",
        "cronjobs",
        "services",
    ),
    *("configmaps", "secrets", "serviceaccounts", "persistentvolumeclaims", "roles", "rolebindings"),
    *("limitranges", "resourcequotas"),
    *(f"{kind}.kueue.x-k8s.io" for kind in ("clusterqueues", "localqueues", "resourceflavors")),
)
# Of no namespace: their names begin with the release's.
CLUSTER_KINDS = (
    *("PriorityClass", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
    *("ClusterQueue", "Cohort", "ResourceFlavor"),
)
MLFLOW = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/trainyard-mlflow"
MLFLOW_SERVICE = f"/api/v1/namespaces/{NAMESPACE}/services/trainyard-mlflow"
DAG_PROCESSOR = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/trainyard-dag-processor"
# A toleration that the chart renders and the API server refuses.
REFUSED = {"key": "e2e", "operator": "Exists", "value": "none"}
# Gives the Jobs that run a script other names.
MORE_ROOM = {"scriptJobs": {"resources": {"limits": {"memory": "300Mi"}}}}
# Longer than the triggerer takes to be replaced.
SLOW = {"epochs": 30, "epoch_seconds": 1}


@pytest.fixture(scope="module")
def kube(connection) -> Kube:
    return connection.kube


@dataclass
class Objects:
    """The platform's objects, as the API server has them, by kind, namespace and name."""

    written: dict[tuple[str, str, str], Json]
    secrets: dict[str, Json]
    pods: set[str]

    def generations(self) -> dict[tuple[str, str, str], int]:
        return {key: one["metadata"].get("generation", 0) for key, one in self.written.items()}

    def names(self) -> set[tuple[str, str, str]]:
        """Those that no controller has made."""
        return {key for key, one in self.written.items() if not one["metadata"].get("ownerReferences")}


def look(kube: Kube) -> Objects:
    """Read every object of the platform but Helm's records."""
    command = ["kubectl", "get", ",".join(KINDS), "--all-namespaces", "--output=json", "--ignore-not-found"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["items"]
    own = [one for one in found if _is_own(one)]
    pods = kube.items(f"/api/v1/namespaces/{NAMESPACE}/pods")
    return Objects(
        {
            (one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): _written(one)
            for one in own
        },
        {one["metadata"]["name"]: one["data"] for one in own if one["kind"] == "Secret"},
        {
            pod["metadata"]["uid"]
            for pod in pods
            if any(
                owner["kind"] in ("ReplicaSet", "StatefulSet")
                for owner in pod["metadata"].get("ownerReferences", [])
            )
        },
    )


def _written(one: Json) -> Json:
    """An object without its status, which controllers change at any time, and what changes with it."""
    times = ("resourceVersion", "managedFields")
    metadata = {key: value for key, value in one["metadata"].items() if key not in times}
    return {**{key: value for key, value in one.items() if key != "status"}, "metadata": metadata}


def _is_own(one: Json) -> bool:
    metadata = one["metadata"]
    namespace = metadata.get("namespace") or metadata["name"]
    if one["kind"] in CLUSTER_KINDS:
        return namespace.startswith("trainyard")
    return namespace in NAMESPACES and one.get("type") != "helm.sh/release.v1"


@dataclass
class Team:
    """What a team does: it commits to a clone, pushes, and looks at what Argo CD says."""

    clone: Path
    kube: Kube

    def git(self, *arguments: str) -> str:
        identity = (
            "-c",
            "user.name=e2e",
            "-c",
            "user.email=e2e@example.com",
            "-c",
            "protocol.ext.allow=always",
        )
        done = subprocess.run(["git", *identity, *arguments], cwd=self.clone, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def push(self, message: str) -> None:
        self.git("commit", "--quiet", "--all", "--message", message)
        self.git("push", "--quiet", "origin", "HEAD:main")

    def change(self, message: str, *, environment: Json | None = None, **values: Any) -> None:
        """Commit a change of the environment: of its values.yaml, and of environment.yaml."""
        for name, change in (("values", values), ("environment", {"environment": environment or {}})):
            file = self.clone / ENVIRONMENT / f"{name}.yaml"
            changed = chart.merge(yaml.safe_load(file.read_text()), change, keep_null=True)
            file.write_text(yaml.safe_dump(changed, sort_keys=False))
        self.push(message)

    def revert(self) -> None:
        self.git("revert", "--no-edit", "HEAD")
        self.git("push", "--quiet", "origin", "HEAD:main")

    def application(self) -> Json:
        return self.kube.find(gitops.APPLICATION_PATH) or {}

    def is_current(self) -> Json | None:
        """The Application, once it is of the newest commit."""
        application = self.application()
        environment = yaml.safe_load((self.clone / ENVIRONMENT / "environment.yaml").read_text())[
            "environment"
        ]
        values = yaml.safe_load((self.clone / ENVIRONMENT / "values.yaml").read_text())
        expected = chart.merge(values, environment["images"], keep_null=True)
        return application if gitops.takes(application, environment["revision"], expected) else None

    def synced(self, seconds: float = 90) -> Json:
        """Wait until the newest commit is synced."""

        def check() -> Json | None:
            application = self.is_current()
            return application if application and gitops.is_synced(application) else None

        return wait_until("the commit to be synced", check, seconds=seconds, every=0.5)

    def healthy(self, seconds: float = 180) -> None:
        self.synced()
        wait_until("the platform to be Healthy", lambda: self.health() == "Healthy", seconds=seconds)

    def health(self) -> str:
        return self.application()["status"].get("health", {}).get("status", "")

    def problem(self, text: str, seconds: float = 60) -> str:
        """Wait until Argo CD says of the newest commit that it cannot sync it."""

        def check() -> str:
            application = self.is_current()
            found = applications.problem(application) if application else ""
            return found if text in found else ""

        return wait_until(f"Argo CD to say {text!r}", check, seconds=seconds, every=0.5)


def status_of(environment: str) -> Json:
    """What ./scripts/status says of an environment."""
    done = subprocess.run([ROOT / "scripts/status", "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return next(
        each for each in json.loads(done.stdout)["environments"] if each["environment"] == environment
    )


def told(environment: str, text: str, what: str = "") -> Json:
    """Wait until ./scripts/status tells a problem of what begins with ``what``; return the problem."""

    def check() -> Json | None:
        problems = status_of(environment)["problems"]
        return next(
            (each for each in problems if text in each["why"] and each["what"].startswith(what)), None
        )

    return wait_until(f"the status of {environment} to say {text!r}", check, seconds=60)


@pytest.fixture(scope="module")
def before(kube: Kube) -> Objects:
    # A backup test that was broken off has left it. Helm keeps it, and Argo CD does not take it over.
    kube.delete(f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/{RELEASE}-backups")
    return look(kube)


@pytest.fixture(scope="module")
def team(kube: Kube, before: Objects, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The release handed over to Argo CD, until the last test; handed back in any case."""
    up("--gitops")
    clone = tmp_path_factory.mktemp("team") / "clone"
    kubectl = shutil.which("kubectl")
    assert kubectl
    remote = gitops.remote(Path(kubectl), Path(os.environ["KUBECONFIG"]))
    allow = ("-c", "protocol.ext.allow=always")
    subprocess.run(["git", *allow, "clone", "--quiet", remote, clone], check=True)
    yield Team(clone, kube)
    if gitops.owners(kube):
        up("--take-ownership")


@pytest.fixture(autouse=True)
def clean(team: Team) -> Iterator[None]:
    """Whatever a test has committed, the next one finds branch and platform as they were handed over."""
    start = team.git("rev-parse", "HEAD^{tree}")
    yield
    if team.git("rev-parse", "HEAD^{tree}") != start:
        team.git("read-tree", "--reset", "-u", start)
        team.push("Take the trials back")
        team.healthy()


def test_handing_over_restarts_nothing_and_forgets_helm(team: Team, before: Objects, kube: Kube) -> None:
    after = look(kube)
    assert after.pods == before.pods
    assert after.secrets == before.secrets
    assert kube.items(f"/api/v1/namespaces/{NAMESPACE}/secrets", labelSelector="owner=helm") == []
    untracked = [
        key
        for key, one in after.written.items()
        if (metadata := one["metadata"]).get("labels", {}).get("app.kubernetes.io/managed-by") == "Helm"
        and "argocd.argoproj.io/tracking-id" not in metadata.get("annotations", {})
        and not metadata.get("ownerReferences")
        and "deletionTimestamp" not in metadata  # a claim that waits for a pod to end
    ]
    assert untracked == []


def test_a_second_sync_changes_no_object(team: Team, kube: Kube) -> None:
    team.healthy()
    first = look(kube).written
    finished = team.application()["status"]["operationState"]["finishedAt"]
    time.sleep(1)  # finishedAt counts in seconds
    kube.patch(gitops.APPLICATION_PATH, gitops.sync_request(team.application()))
    wait_until(
        "the second sync",
        lambda: team.application()["status"]["operationState"].get("finishedAt", finished) > finished,
    )
    assert team.application()["status"]["operationState"]["phase"] == "Succeeded"
    assert look(kube).written == first


def test_drift_made_by_hand_is_healed(team: Team, kube: Kube) -> None:
    label = "app.kubernetes.io/component"
    right = kube.get(MLFLOW)["metadata"]["labels"][label]
    port = kube.get(MLFLOW_SERVICE)["spec"]["ports"][0]["nodePort"]
    kube.patch(MLFLOW, {"metadata": {"labels": {label: "by-hand"}}})
    kube.delete(MLFLOW_SERVICE)
    wait_until("the label to come back", lambda: kube.get(MLFLOW)["metadata"]["labels"][label] == right)
    service = wait_until("the Service to come back", lambda: kube.find(MLFLOW_SERVICE))
    assert service["spec"]["ports"][0]["nodePort"] == port


def test_a_commit_that_changes_one_value_rolls_one_deployment(team: Team, kube: Kube) -> None:
    team.healthy()
    first = look(kube)
    team.change("A note", mlflow={"podAnnotations": {"e2e": "1"}})
    team.healthy()
    after = look(kube)
    changed = {key for key, number in after.generations().items() if first.generations().get(key) != number}
    rolled = ("Deployment", NAMESPACE, "trainyard-mlflow")
    assert changed == {rolled, ("CronJob", NAMESPACE, "trainyard-mlflow-garbage-collection")}
    assert len(first.pods - after.pods) == 1


@pytest.mark.nightly
def test_a_missing_image_stops_no_running_task_and_git_revert_rolls_back(team: Team, core) -> None:
    missing = {"repository": "registry.invalid/airflow", "tag": "missing"}
    team.change(
        "An image that is missing", environment={"images": {"airflow": {"images": {"airflow": missing}}}}
    )
    team.synced()
    wait_until("a new pod to lack its image", lambda: "registry.invalid" in _waiting(core))
    assert team.health() == "Progressing"
    problem = told("kind", "registry.invalid/airflow", what=f"Deployment {NAMESPACE}/trainyard-")
    assert f"environment.images in {ENVIRONMENT}/environment.yaml" in problem["cure"]
    # The others are not rolled but replaced: two schedulers at once leave stale pods.
    rolled = ("api-server", "triggerer")
    assert _ready(core, *rolled) == set(rolled), "what runs must go on"
    team.revert()
    team.healthy()
    assert _ready(core, "scheduler", "dag-processor", *rolled) >= {"scheduler", "dag-processor", *rolled}


def _ready(core: client.CoreV1Api, *components: str) -> set[str]:
    """Those components that have a pod which is ready."""
    found = set()
    for component in components:
        pods = core.list_namespaced_pod(NAMESPACE, label_selector=f"component={component}").items
        statuses = [status for pod in pods for status in pod.status.container_statuses or []]
        found |= {component} if any(status.ready for status in statuses) else set()
    return found


def _waiting(core: client.CoreV1Api) -> str:
    pods = core.list_namespaced_pod(NAMESPACE).items
    statuses = [
        status
        for pod in pods
        for status in [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
    ]
    return " ".join(status.state.waiting.message or "" for status in statuses if status.state.waiting)


def test_a_bad_value_is_refused_with_its_key_and_a_good_commit_is_synced(team: Team, kube: Kube) -> None:
    first = look(kube)
    team.change("A wrong type", serving={"replicas": "three"})
    assert "/serving/replicas" in team.problem("/serving/replicas")
    assert team.application()["status"]["sync"]["status"] == "Unknown"
    assert f"from the value in {ENVIRONMENT}/values.yaml" in told("kind", "/serving/replicas")["cure"]
    team.change("What the chart itself refuses", serving={"replicas": 1}, training={"namespace": NAMESPACE})
    assert "training.namespace" in team.problem("training.namespace")
    correct = f"correct {ENVIRONMENT}/values.yaml or revert the commit"
    assert told("kind", "training.namespace")["cure"].startswith(correct)
    found = status_of("kind")
    assert (found["by"], found["sync"], found["health"]) == ("Argo CD", "Unknown", "Healthy")
    team.git("revert", "--no-edit", "HEAD")
    team.git("revert", "--no-edit", "HEAD~2")
    team.git("push", "--quiet", "origin", "HEAD:main")
    team.healthy()
    after = look(kube)
    assert (after.pods, after.written) == (first.pods, first.written)


def test_what_the_api_server_refuses_can_be_ended_and_a_good_commit_is_synced(team: Team, kube: Kube) -> None:
    first = look(kube)
    # A null is handed on, too: it removes what the chart has by default.
    resources = {"requests": {"cpu": None}}
    team.change("An odd toleration", mlflow={"tolerations": [REFUSED], "resources": resources})
    assert "trainyard-mlflow" in team.problem("value must be empty")
    problem = told("kind", "value must be empty")
    assert problem["what"] == f"Deployment {NAMESPACE}/trainyard-mlflow"
    assert problem["cure"].startswith(f"correct the value in {ENVIRONMENT}/values.yaml")
    assert look(kube).pods == first.pods
    team.revert()
    wait_until("Argo CD to read the commit", team.is_current)
    kube.patch(gitops.APPLICATION_PATH, gitops.END_OPERATION)
    team.healthy()
    assert look(kube).pods == first.pods


@pytest.mark.nightly
def test_what_git_has_no_longer_goes_from_the_object(team: Team, kube: Kube) -> None:
    """Helm has set these labels once; the revision that the environment names decides on the chart."""
    label = "app.kubernetes.io/component"
    assert label in kube.get(MLFLOW_SERVICE)["metadata"]["labels"]
    template = team.clone / "charts/trainyard/charts/mlflow/templates/mlflow-service.yaml"
    lines = template.read_text().splitlines(keepends=True)
    template.write_text("".join(line for line in lines if "common.labels" not in line))
    # Of two pushes within a second, Argo CD sees the second one only three minutes later.
    team.git("commit", "--quiet", "--all", "--message", "No labels for the Service of MLflow")
    team.change("The newest chart", environment={"revision": team.git("rev-parse", "HEAD")})
    team.synced()
    assert label not in kube.get(MLFLOW_SERVICE)["metadata"].get("labels", {})
    team.revert()
    team.synced()
    assert label in kube.get(MLFLOW_SERVICE)["metadata"]["labels"]


def jobs(kube: Kube) -> set[str]:
    """The names of the Jobs that the release has."""
    found = (one["metadata"] for one in kube.items(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"))
    return {one["name"] for one in found if not one.get("ownerReferences")}


@pytest.mark.nightly
def test_jobs_named_after_what_they_run_are_replaced_once(team: Team, kube: Kube) -> None:
    first = jobs(kube)
    team.change("More room for the small Jobs", **MORE_ROOM)
    team.healthy()
    second = jobs(kube)
    assert first - second and len(second) == len(first)
    finished = team.application()["status"]["operationState"]["finishedAt"]
    kube.patch(gitops.APPLICATION_PATH, gitops.refresh("refresh", "normal"))
    wait_until(
        "the refresh",
        lambda: "argocd.argoproj.io/refresh" not in team.application()["metadata"].get("annotations", {}),
    )
    assert gitops.is_synced(team.application())
    assert team.application()["status"]["operationState"]["finishedAt"] == finished


@pytest.mark.nightly
def test_a_claim_that_git_has_no_longer_stays(team: Team, kube: Kube, core) -> None:
    path = "/api/v1/namespaces/ml-training/persistentvolumeclaims/e2e"
    volume = {"size": "1Mi", "storageClassName": "trainyard-e2e", "mountPath": "/e2e", "claimName": "e2e"}
    team.change("One more volume", training={"volumes": {"e2e": volume}})
    team.synced()
    claim = kube.get(path)["metadata"]["uid"]
    team.revert()
    team.synced()  # what is kept is no difference
    assert kube.get(path)["metadata"]["uid"] == claim
    # Until the kubelet has brought the ConfigMap, training pods would want the volume.
    wait_until(
        "the triggerer to know of no such volume", lambda: "e2e" not in _platform_of(core), seconds=180
    )
    kube.delete(path)


def _platform_of(core: client.CoreV1Api) -> str:
    """The platform file as the triggerer has it."""
    (pod,) = core.list_namespaced_pod(NAMESPACE, label_selector="component=triggerer").items
    return output_of(core, pod.metadata.name, NAMESPACE, "cat", DEFAULT_PATH)


@pytest.mark.nightly
def test_an_upgrade_loses_nothing_of_a_training_run(
    team: Team, trigger: Callable[..., str], finish: Callable[..., Any], recorder: PodRecorder
) -> None:
    run_id = trigger("gitops", **SLOW)
    recorder.wait_for_running(run_id)
    team.change("Another triggerer", airflow={"triggerer": {"podAnnotations": {"e2e": "1"}}})
    team.healthy()
    run = finish(run_id)
    assert run.state == "success"
    assert run.tasks["train"]["try_number"] == 1
    assert len(recorder.of_task(run_id, "train")) == 1


BAD_REPOSITORIES = {
    "no-such-host": (
        "http://nowhere.git.svc.cluster.local/trainyard.git",
        "no such host",
        "check the repository's address",
    ),
    "no-such-repository": (f"http://{gitops.HOST}:8080/other.git", "not found", "correct url"),
    "wrong-key": (
        gitops.URL.replace("trainyard.git", "other.git"),
        "unable to authenticate",
        "correct url, key or token",
    ),
    "unknown-host-key": (
        gitops.URL.replace(".svc.cluster.local", ".svc"),
        "knownhosts: key is unknown",
        "write the git server's host key",
    ),
}


def test_an_application_says_why_it_cannot_read_its_repository(team: Team) -> None:
    key = new_key().private
    objects: list[Json] = [
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "AppProject",
            "metadata": {"name": "e2e", "namespace": gitops.ARGOCD},
            "spec": {"sourceRepos": ["*"], "destinations": [{"server": "*", "namespace": "e2e"}]},
        }
    ]
    for name, (url, _, _) in BAD_REPOSITORIES.items():
        source = {"repoURL": url, "targetRevision": "main", "path": "charts/trainyard"}
        destination = {"server": "https://kubernetes.default.svc", "namespace": "e2e"}
        spec = {"project": "e2e", "source": source, "destination": destination}
        metadata = {"name": f"e2e-{name}", "namespace": gitops.ARGOCD}
        labels = {"argocd.argoproj.io/secret-type": "repository"}
        application = {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Application",
            "metadata": metadata,
            "spec": spec,
        }
        credentials = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {**metadata, "labels": labels},
            "stringData": {"type": "git", "url": url, "sshPrivateKey": key},
        }
        objects += [*([credentials] if url.startswith("ssh") else []), application]
    text = yaml.safe_dump_all(objects)
    try:
        subprocess.run(
            ["kubectl", "apply", "-f", "-"], input=text, text=True, check=True, capture_output=True
        )
        for name, (_, words, cure) in BAD_REPOSITORIES.items():
            assert told(f"e2e-{name}", words)["cure"].startswith(cure)
    finally:
        subprocess.run(
            ["kubectl", "delete", "-f", "-"], input=text, text=True, check=True, capture_output=True
        )


def test_deleting_the_application_without_its_finalizer_changes_nothing(team: Team, kube: Kube) -> None:
    team.healthy()
    first = look(kube).written
    old = team.application()["metadata"]["uid"]
    kube.delete(gitops.APPLICATION_PATH)

    def made_again() -> bool:
        return team.application().get("metadata", {}).get("uid", old) != old

    wait_until("the ApplicationSet to make it again", made_again)
    wait_until("the new one to be compared", lambda: gitops.is_unowned(team.application()))
    assert look(kube).written == first


@pytest.mark.nightly
def test_after_a_cascade_argo_cd_alone_installs_everything_again(
    team: Team, before: Objects, kube: Kube, trigger: Callable[..., str], finish: Callable[..., Any]
) -> None:
    application = team.application()
    if gitops.is_unowned(application):  # the test above has had it made anew
        kube.patch(gitops.APPLICATION_PATH, gitops.sync_request(application))
    team.healthy()
    first = look(kube)
    kube.patch(gitops.APPLICATION_SET_PATH, {"spec": {"syncPolicy": {"preserveResourcesOnDeletion": False}}})
    finalizer = "resources-finalizer.argocd.argoproj.io"
    wait_until(
        "the finalizer", lambda: finalizer in team.application()["metadata"].get("finalizers", []), every=0.5
    )
    kube.delete(gitops.APPLICATION_SET_PATH)
    wait_until("the cascade to end", lambda: not team.application(), seconds=240)
    left = look(kube)
    assert left.secrets == before.secrets
    kinds = {kind for kind, _, _ in left.written}
    assert kinds.isdisjoint({"Deployment", "StatefulSet", "DaemonSet", "CronJob", "Job"} - _served(kube))
    assert _of(left, "PersistentVolumeClaim") == _of(first, "PersistentVolumeClaim")
    assert _of(left, "PriorityClass") == {"trainyard-serving"}, "that of the model servers, which go on"
    assert _of(left, "Namespace") == _of(first, "Namespace") - {"nvidia-device-plugin"}

    up("--gitops")
    assert look(kube).secrets == before.secrets
    assert finish(trigger("after-cascade")).state == "success"


def _of(objects: Objects, kind: str) -> set[str]:
    return {name for each, _, name in objects.written if each == kind}


def _served(kube: Kube) -> set[str]:
    """The kind of the model servers, where there are any: they are no part of the release."""
    return {"Deployment"} if kube.items("/apis/apps/v1/namespaces/ml-serving/deployments") else set()


def test_up_without_gitops_says_who_owns_the_platform_and_changes_nothing(team: Team, kube: Kube) -> None:
    first = look(kube).written
    said = up(succeeds=False)
    assert f"Application {gitops.ARGOCD}/{gitops.APPLICATION}" in said
    assert "--take-ownership" in said
    assert look(kube).written == first


def test_helm_takes_the_release_back_and_no_secret_has_changed(
    team: Team, before: Objects, kube: Kube
) -> None:
    up("--gitops")  # what the tests have committed goes: the working tree is what it was
    first = look(kube)
    up("--take-ownership")
    after = look(kube)
    assert after.pods == first.pods
    assert after.secrets == before.secrets
    assert gitops.owners(kube) == []
    assert kube.find(gitops.APPLICATION_SET_PATH) is None
    (record,) = kube.items(
        f"/api/v1/namespaces/{NAMESPACE}/secrets", labelSelector="owner=helm,name=trainyard"
    )
    assert record["metadata"]["labels"]["status"] == "deployed"


# ---- hand-overs of other content


@pytest.fixture
def with_helm(team: Team, kube: Kube) -> None:
    """The release with Helm again, whichever tests ran before."""
    if gitops.owners(kube):
        up("--take-ownership")


@pytest.fixture(scope="module")
def other(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Values with other Jobs, and with a container that is in no commit."""
    container = kube.get(DAG_PROCESSOR)["spec"]["template"]["spec"]["containers"][0]
    taken = {key: container[key] for key in ("image", "securityContext", "resources")}
    extra = {"extraInitContainers": [{**taken, "name": "e2e", "command": ["true"]}]}
    return written(tmp_path_factory, {**MORE_ROOM, "airflow": {"dagProcessor": extra}})


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Values that render, and that the API server refuses."""
    return written(tmp_path_factory, {"mlflow": {"tolerations": [REFUSED]}})


def written(tmp_path_factory: pytest.TempPathFactory, values: Json) -> str:
    file = tmp_path_factory.mktemp("values") / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)


def init_containers(kube: Kube) -> set[str]:
    found = kube.get(DAG_PROCESSOR)["spec"]["template"]["spec"].get("initContainers", [])
    return {each["name"] for each in found}


@pytest.mark.nightly
def test_a_hand_over_that_the_api_server_refuses_ends_before_argo_cd(
    with_helm: None, kube: Kube, refused: str
) -> None:
    first = look(kube)
    said = up("--gitops", "--values", refused, succeeds=False)
    assert "value must be empty" in said
    assert refused in said.partition("cure: ")[2]
    assert gitops.owners(kube) == []
    assert look(kube).pods == first.pods


@pytest.mark.nightly
@pytest.mark.parametrize("broken_off", [False, True])
def test_what_only_helm_has_goes_when_argo_cd_takes_over(
    with_helm: None, kube: Kube, other: str, *, broken_off: bool
) -> None:
    up()
    before = jobs(kube)
    if broken_off:
        hand_over_until_there_is_an_application(kube, other)
    else:
        up("--values", other)
    assert "e2e" in init_containers(kube)
    assert jobs(kube) != before
    up("--gitops")
    assert "e2e" not in init_containers(kube)
    assert jobs(kube) == before
    assert workloads.is_ready("Deployment", kube.get(DAG_PROCESSOR))
    assert helm_release.records(kube, NAMESPACE, RELEASE) == {}


def hand_over_until_there_is_an_application(kube: Kube, values: str) -> None:
    command = [ROOT / "scripts/up", "--no-train", "--gitops", "--values", values]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until("the Application", lambda: gitops.owners(kube), seconds=300, every=0.1)
        finally:
            process.kill()
    assert helm_release.records(kube, NAMESPACE, RELEASE)


@pytest.mark.nightly
def test_a_hand_back_that_was_broken_off_is_finished_by_the_next(
    kube: Kube, before: Objects, other: str, refused: str
) -> None:
    up("--gitops")
    first = look(kube)
    own_jobs = jobs(kube)
    up("--gitops", "--values", other)
    assert "e2e" in init_containers(kube)
    others_jobs = jobs(kube) - own_jobs
    assert others_jobs
    said = up("--take-ownership", "--values", refused, succeeds=False)
    assert "value must be empty" in said
    assert others_jobs < jobs(kube), "else there is nothing left to delete"
    assert "--take-ownership" in up(succeeds=False)
    up("--take-ownership")
    assert "e2e" not in init_containers(kube)
    assert jobs(kube) == own_jobs
    after = look(kube)
    assert after.names() == first.names()
    assert after.secrets == before.secrets
