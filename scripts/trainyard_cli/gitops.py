"""Argo CD on the kind cluster and the git server that it syncs from: the platform is what a commit says."""

from __future__ import annotations

import base64
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from . import applications, argocd_build, chart, cluster, helm_release, host, paths, release
from .errors import CliError
from .git import Commit
from .kube import Kube, secret
from .names import NAMESPACE, RELEASE
from .objects import Identity
from .shell import run
from .snapshot import Repository
from .stages import Stage
from .toolchain import Tools

Json = dict[str, Any]
Kubectl = list[str | Path]

ARGOCD, GIT = "argocd", "git"
PLATFORM = paths.ROOT / "manifests/argocd"
"""The project and the ApplicationSet: what a user with an Argo CD of their own applies as well."""
SERVERS = (paths.ROOT / "manifests/kind/argocd", paths.ROOT / "manifests/kind/git-server")
ENVIRONMENT = "kind"
APPLICATION = f"{RELEASE}-{ENVIRONMENT}"
APPLICATION_PATH = f"{applications.API}/namespaces/{ARGOCD}/applications/{APPLICATION}"
APPLICATION_SET_PATH = f"{applications.API}/namespaces/{ARGOCD}/applicationsets/trainyard"
REPOSITORY = "/srv/git/trainyard.git"
HOST, PORT = f"git-server.{GIT}.svc.cluster.local", 2222
URL = f"ssh://git@{HOST}:{PORT}{REPOSITORY}"
# The git server may only be read from with this key, and nothing but this repository.
AUTHORIZED = "restrict,command=\"git-upload-pack '{repository}'\" {key}"
KEYS = "cd /tmp; for name in host deploy; do ssh-keygen -q -t ed25519 -N '' -C '' -f $name; done; base64 -w0 "
# Ends what Argo CD does now, or waits to do again.
END_OPERATION = {"status": {"operationState": {"phase": "Terminating"}}}
# Data, and what holds it: never removed because the platform changes hands.
KEPT_KINDS = ("Namespace", "PersistentVolumeClaim", "Secret")
SYNC_SECONDS = 300
STUCK_SECONDS = 30
APPLICATION_SECONDS = 60


# ---- who owns the platform, and the hand-over


def owners(kube: Kube) -> list[Json]:
    """Return the Applications that deploy to the platform's namespace."""
    found = kube.items(f"{applications.API}/applications")
    return [each for each in found if each["spec"]["destination"].get("namespace") == NAMESPACE]


def check_owner(kube: Kube, *, take_ownership: bool) -> None:
    """Refuse to write beside Argo CD, which would undo it; nothing has been changed yet."""
    found = owners(kube)
    if found and not take_ownership:
        name = f"{found[0]['metadata']['namespace']}/{found[0]['metadata']['name']}"
        message = f"Argo CD syncs the platform from git (Application {name}); nothing was changed"
        cure = (
            "./scripts/up --gitops releases through git; ./scripts/up --take-ownership gives it back to Helm"
        )
        raise CliError(message, cure)


def give_back(
    stage: Stage, made: cluster.Cluster, tools: Tools, images: dict[str, str], files: list[Path]
) -> None:
    """Remove the Applications of the platform, and what makes them, so that Helm can take the platform over.

    Helm only adds to what it adopts: so what was deployed first becomes what Helm will install. The
    Applications go last: they say what there is still to delete, should this be broken off.
    """
    kube = Kube(made.kubeconfig)
    found = owners(kube)
    if not found:
        return
    wanted = release.rendered(tools, images, files)
    for application in found:
        stage.update(f"ending the syncs of Application {application['metadata']['name']}")
        _end_syncs(kube, application)
    stage.update("making the platform what Helm will install")
    kubectl = made.kubectl(tools)
    # As Argo CD does, which has noted on each object what it applied last.
    run([*kubectl, "apply", "-f", "-"], input=wanted)
    deployed = {each for application in owners(kube) for each in applications.resources(application)}
    _delete(kubectl, left_over(deployed, [Identity.of(each) for each in yaml.safe_load_all(wanted) if each]))
    for application in found:
        _remove(kube, application)


def _end_syncs(kube: Kube, application: Json) -> None:
    """Have Argo CD sync an Application no more, and remove what makes the Application."""
    for owner in application["metadata"].get("ownerReferences", []):
        path = f"{_base(application)}/{owner['kind'].lower()}s/{owner['name']}"
        kube.delete(path, propagationPolicy="Orphan")
        _wait_until_gone(kube, path)
    path = _path(application)
    kube.patch(path, {"spec": {"syncPolicy": {"automated": None}}})
    deadline = time.monotonic() + STUCK_SECONDS
    # Past the deadline the controller does not run, and syncs nothing.
    while "operation" in (present := kube.get(path)) and time.monotonic() < deadline:
        if applications.is_syncing(present):
            kube.patch(path, END_OPERATION)
        time.sleep(0.5)


def _remove(kube: Kube, application: Json) -> None:
    """Remove an Application; what it has deployed stays."""
    path = _path(application)
    # With the finalizer Argo CD would delete the platform, too.
    kube.patch(path, {"metadata": {"finalizers": None}})
    kube.delete(path)
    _wait_until_gone(kube, path)


def _base(application: Json) -> str:
    return f"{applications.API}/namespaces/{application['metadata']['namespace']}"


def _path(application: Json) -> str:
    return f"{_base(application)}/applications/{application['metadata']['name']}"


def left_over(deployed: Iterable[Identity], wanted: Iterable[Identity]) -> list[Identity]:
    """Return what Argo CD has deployed and Helm does not want, without what holds data."""
    return sorted(each for each in {*deployed} - {*wanted} if each.kind not in KEPT_KINDS)


def _delete(kubectl: Kubectl, found: Iterable[Identity]) -> None:
    for kind, namespace, name, group in found:
        where = [f"{kind}.{group}".rstrip("."), name, f"--namespace={namespace}", "--ignore-not-found"]
        one = yaml.safe_load(run([*kubectl, "get", *where, "--output=yaml"]).stdout)
        if one and not is_kept(one):
            run([*kubectl, "delete", *where])


def is_kept(one: Json) -> bool:
    """Tell whether an object says that neither Helm nor Argo CD may delete it when it is wanted no more."""
    annotations = one["metadata"].get("annotations", {})
    options = annotations.get("argocd.argoproj.io/sync-options", "").split(",")
    return annotations.get("helm.sh/resource-policy") == "keep" or "Prune=false" in map(str.strip, options)


def _wait_until_gone(kube: Kube, path: str) -> None:
    deadline = time.monotonic() + APPLICATION_SECONDS
    while kube.find(path):
        if time.monotonic() > deadline:
            raise CliError(f"{path} does not go", "see its finalizers, then run the command again")
        time.sleep(0.5)


# ---- Argo CD and the git server


def start(stage: Stage, made: cluster.Cluster, tools: Tools, images: dict[str, str]) -> None:
    """Start Argo CD and the git server, and return when both are ready."""
    kube = Kube(made.kubeconfig)
    kubectl = made.kubectl(tools)
    apply = [*kubectl, "apply", "--server-side", "--force-conflicts", "-f"]
    definitions = argocd_build.crds(stage)
    stage.update("Argo CD and the git server")
    run([*apply, definitions])
    servers = list(server_manifests(images))
    namespaces = [each for each in servers if each["kind"] == "Namespace"]
    run([*apply, "-"], input=yaml.safe_dump_all(namespaces))
    made_once = _secrets(kube, images["git-server"])
    run([*apply, "-"], input=yaml.safe_dump_all([*made_once, *servers]))
    release.wait_for_workloads(kube, stage, (ARGOCD, GIT))


def server_manifests(images: dict[str, str]) -> Iterator[Json]:
    """Return the objects of manifests/kind/argocd and git-server, with the images that were built."""
    for directory in SERVERS:
        yield from release.manifests(directory, images)


def _secrets(kube: Kube, git_server: str) -> list[Json]:
    """Return the Secrets of both, which are made once, and what else holds the keys in them."""
    keys = secret(kube, GIT, "git-server-ssh") or _new_keys(git_server)
    settings = secret(kube, ARGOCD, "argocd-secret") or {
        "server.secretkey": secrets.token_urlsafe(32),
        "webhook.gitlab.secret": secrets.token_urlsafe(32),
    }
    redis = secret(kube, ARGOCD, "argocd-redis") or {"auth": secrets.token_urlsafe(32)}
    repository = {"type": "git", "url": URL, "sshPrivateKey": keys["deploy_ed25519"]}
    known_hosts = {"ssh_known_hosts": f"[{HOST}]:{PORT} {keys['host_ed25519.pub']}"}
    return [
        _object("Secret", GIT, "git-server-ssh", keys),
        _object("Secret", GIT, "git-server-webhook", {"token": settings["webhook.gitlab.secret"]}),
        _object("Secret", ARGOCD, "argocd-secret", settings),
        _object("Secret", ARGOCD, "argocd-redis", redis),
        _object(
            "Secret",
            ARGOCD,
            "trainyard-repository",
            repository,
            {"argocd.argoproj.io/secret-type": "repository"},
        ),
        _object("ConfigMap", ARGOCD, "argocd-ssh-known-hosts-cm", known_hosts),
    ]


def _object(
    kind: str, namespace: str, name: str, data: dict[str, str], labels: dict[str, str] | None = None
) -> Json:
    # Argo CD reads only the settings that carry its label.
    labels = {"app.kubernetes.io/part-of": ARGOCD, **(labels or {})}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    field = "stringData" if kind == "Secret" else "data"
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, field: data}


def _new_keys(git_server: str) -> dict[str, str]:
    """Return a host key and a deploy key, made in the git server's image: a machine may lack ssh-keygen."""
    files = ("host", "host.pub", "deploy", "deploy.pub")
    script = KEYS + "; echo; base64 -w0 ".join(files)
    command = [host.docker(), "run", "--rm", "--network=none", "--entrypoint=sh", git_server, "-c", script]
    host_key, host_public, deploy_key, deploy_public = (
        base64.b64decode(line).decode() for line in run(command).stdout.split()
    )
    return {
        "host_ed25519": host_key,
        "host_ed25519.pub": host_public,
        "deploy_ed25519": deploy_key,
        "authorized_keys": AUTHORIZED.format(repository=REPOSITORY, key=deploy_public),
    }


# ---- the release


def release_from_git(
    stage: Stage, made: cluster.Cluster, tools: Tools, images: dict[str, str], files: list[Path]
) -> None:
    """Push the working tree to the git server and return when Argo CD has synced it and all of it is ready.

    A release that Helm has installed is taken over: no pod restarts that is the same in git, and Helm's
    records of the release go.
    """
    kube = Kube(made.kubeconfig)
    kubectl = made.kubectl(tools)
    release.make_shared_volumes(made, tools, files)
    stage.update("committing the working tree")
    given = chart.read_values((*chart.VALUES, *files))
    local = release.local_values(images, cluster.ports(), given)
    values = chart.merge(chart.read_values(files, keep_null=True), local, keep_null=True)
    image_values = release.image_values(images)
    environment = {
        "server": applications.IN_CLUSTER,
        "namespace": NAMESPACE,
        "release": RELEASE,
        "valueFiles": [f"../../{chart.KIND_VALUES_PATH}"],
        "images": image_values,
    }
    repository = Repository(paths.STATE / "gitops.git", remote(tools.kubectl, made.kubeconfig))
    revision = repository.release(ENVIRONMENT, environment, values)
    if helm_release.records(kube, NAMESPACE, RELEASE):
        _upgrade_with_helm(stage, made, tools, images, files, Commit(repository, revision, revision))
    run([*kubectl, "apply", "-f", "-"], input=yaml.safe_dump_all(platform_manifests(URL, ENVIRONMENT)))
    # In case that the push could not tell it.
    kube.patch(APPLICATION_SET_PATH, refresh("application-set-refresh", "true"))
    wait_until_synced(stage, kube, revision, chart.merge(values, image_values, keep_null=True))
    release.wait_for_workloads(kube, stage)
    _wait_until_healthy(stage, kube)
    # With them, a `helm uninstall` would delete the platform.
    for path in helm_release.records(kube, NAMESPACE, RELEASE):
        kube.delete(path)


def _upgrade_with_helm(
    stage: Stage,
    made: cluster.Cluster,
    tools: Tools,
    images: dict[str, str],
    files: list[Path],
    commit: Commit,
) -> None:
    """Let Helm make its release what git says: it alone knows which objects and fields are to go.

    Argo CD removes only what it has applied itself. What the API server refuses stops the hand-over here.
    """
    kube = Kube(made.kubeconfig)
    # Of a hand-over that was broken off.
    if application := kube.find(APPLICATION_PATH):
        _end_syncs(kube, application)
        _remove(kube, application)
    with tempfile.TemporaryDirectory(prefix="trainyard-") as scratch:
        root = commit.extract(chart.SOURCES, Path(scratch))
        # One that was broken off may have made objects that Helm does not know.
        release.upgrade(stage, made, tools, images, files, root=root, take_ownership=True)


def remote(kubectl: Path, kubeconfig: Path) -> str:
    """Return the address to which git pushes: a command in the git server's pod.

    So who may execute commands there may push, and nobody else.
    """
    words = [kubectl, "--kubeconfig", kubeconfig, "-n", GIT, "exec", "-i", "deployment/git-server", "--"]
    command = " ".join(str(word).replace("%", "%%").replace(" ", "% ") for word in words)
    return f"ext::{command} %S {REPOSITORY}"


def platform_manifests(url: str, environment: str) -> list[Json]:
    """Return the objects of manifests/argocd for another repository, and one environment of this cluster."""
    manifests = [yaml.safe_load(file.read_text()) for file in sorted(PLATFORM.glob("*.yaml"))]
    (project,) = (each for each in manifests if each["kind"] == "AppProject")
    (example,) = project["spec"]["sourceRepos"]
    destinations = project["spec"]["destinations"]
    project["spec"]["destinations"] = [
        each for each in destinations if each["server"] == applications.IN_CLUSTER
    ]
    replaced = {example: url, "values/environments/*/": f"values/environments/{environment}/"}
    return [_replaced(each, replaced) for each in manifests]


def _replaced(node: Any, texts: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _replaced(value, texts) for key, value in node.items()}
    if isinstance(node, list):
        return [_replaced(each, texts) for each in node]
    for old, new in texts.items() if isinstance(node, str) else ():
        node = node.replace(old, new)
    return node


def refresh(annotation: str, value: str) -> Json:
    """Return the patch that has Argo CD look at git or at the cluster now."""
    return {"metadata": {"annotations": {f"argocd.argoproj.io/{annotation}": value}}}


# ---- waiting


def wait_until_synced(stage: Stage, kube: Kube, revision: str, values: Json) -> None:
    """Return when Argo CD has synced this revision with these values; CliError with the cause it gives."""
    started = time.monotonic()
    since, last = started, ""
    while True:
        application = kube.find(APPLICATION_PATH) or {}
        current = takes(application, revision, values)
        if current and is_synced(application):
            return
        if current and is_unowned(application):
            kube.patch(APPLICATION_PATH, sync_request(application))
        if current and _is_outdated(application):
            kube.patch(APPLICATION_PATH, END_OPERATION)
        found = _problem(kube, application if current else None)
        now = time.monotonic()
        since, last = (since, last) if found == last else (now, found)
        stage.update(found or f"Argo CD syncs: {progress(application) if current else 'it reads the commit'}")
        if (found and now - since > STUCK_SECONDS) or now - started > SYNC_SECONDS:
            cure = "correct what it names, then run ./scripts/up --gitops again"
            raise CliError(f"Argo CD does not sync {APPLICATION}: {found or progress(application)}", cure)
        time.sleep(0.5)


def _problem(kube: Kube, application: Json | None) -> str:
    """Return why the commit is not synced: of its Application, or of the set that has to make it."""
    if application:
        return applications.problem(application)
    return next(applications.errors_of_set(kube.find(APPLICATION_SET_PATH) or {}), "")


def _wait_until_healthy(stage: Stage, kube: Kube) -> None:
    deadline = time.monotonic() + SYNC_SECONDS
    while (application := kube.get(APPLICATION_PATH))["status"].get("health", {}).get("status") != "Healthy":
        stage.update(f"Argo CD: {progress(application)}")
        if time.monotonic() > deadline:
            cure = f"kubectl -n {ARGOCD} get application {APPLICATION} -o yaml says which object is not"
            raise CliError(f"{APPLICATION} does not become Healthy: {progress(application)}", cure)
        time.sleep(1)


def takes(application: Json, revision: str, values: Json) -> bool:
    """Tell whether the Application is of this commit."""
    source = application.get("spec", {}).get("source", {})
    given = yaml.safe_load(source.get("helm", {}).get("values", "")) or {}
    return bool(source.get("targetRevision") == revision and given == values)


def is_synced(application: Json) -> bool:
    """Tell whether what the Application says now is what runs, and Argo CD has applied it once at least."""
    status = application.get("status", {})
    phase = status.get("operationState", {}).get("phase")
    return _is_compared(application) and phase not in (None, "Running") and "operation" not in application


def _is_compared(application: Json) -> bool:
    sync = application.get("status", {}).get("sync", {})
    compared = sync.get("comparedTo", {}).get("source")
    return bool(sync.get("status") == "Synced" and compared == application["spec"]["source"])


def is_unowned(application: Json) -> bool:
    """Tell whether nothing differs: Argo CD has nothing to apply then, and knows no object as its own.

    This is so when it takes over what Helm has installed.
    """
    never = "operationState" not in application.get("status", {}) and "operation" not in application
    return _is_compared(application) and never


def _is_outdated(application: Json) -> bool:
    """Tell whether Argo CD tries again what an older commit said: it would go on until it has no try left."""
    operation = application.get("status", {}).get("operationState", {})
    source = operation.get("operation", {}).get("sync", {}).get("source")
    waits = operation.get("phase") == "Running" and operation.get("retryCount")
    return bool(waits and source and source != application["spec"]["source"])


def sync_request(application: Json) -> Json:
    """Return the patch that has Argo CD apply every object now, as its automatic sync would."""
    policy = application["spec"]["syncPolicy"]
    sync = {"prune": policy["automated"]["prune"], "syncOptions": policy["syncOptions"]}
    return {"operation": {"initiatedBy": {"username": "up"}, "sync": sync, "retry": policy["retry"]}}


def progress(application: Json) -> str:
    """Say in one line how far Argo CD is."""
    status = application.get("status", {})
    parts = [status.get("sync", {}).get("status"), status.get("health", {}).get("status")]
    return ", ".join([*filter(None, parts), status.get("operationState", {}).get("message", "")]).strip(", ")
