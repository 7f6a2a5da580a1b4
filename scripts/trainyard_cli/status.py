"""What is deployed in each environment, what differs from git, and why it is not healthy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import applications, cures, environments, helm_release, workloads
from .environments import Environment
from .errors import CliError
from .git import SHOWN_DIGITS, Repository, short
from .kube import Kube, secret
from .names import NAMESPACE, RELEASE
from .objects import Identity
from .platform import ADMIN_SECRET
from .rendering import image_references

Json = dict[str, Any]

ARGO_CD, HELM = "Argo CD", "Helm"
NO_APPLICATION = "no Application"
OF_APPLICATION_SET = {
    "file": "manifests/argocd/applicationset.yaml",
    "values": f"the environment's files in {environments.DIRECTORY}",
    "where": "",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what, why, and the cure where one is known."""

    what: str
    why: str
    cure: str = ""


@dataclass(frozen=True)
class State:
    """What is known of an environment. ``by`` says who deploys it: Argo CD, Helm or nobody."""

    environment: str
    by: str = ""
    revision: str = ""
    wanted: str = ""
    since: str = ""
    sync: str = NO_APPLICATION
    health: str = ""
    images: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Status:
    """Every environment, and what is wrong with none of them in particular."""

    environments: list[State]
    problems: list[Problem] = field(default_factory=list)

    def as_json(self) -> Json:
        """Return it as plain data."""
        return asdict(self)


def of_checkout(repository: Repository) -> tuple[list[Environment], list[Problem]]:
    """Return the environments of the working tree, and what is wrong with the others."""
    tree = repository.tree(None)
    found, problems = [], []
    for name in environments.names(tree):
        try:
            found.append(environments.read(repository, tree, name))
        except CliError as error:
            problems.append(Problem(f"environment {name}", error.message, error.cure))
    return found, problems


def collect(kube: Kube, known: list[Environment], argocd: str) -> Status:
    """Ask the cluster; ``known`` are the environments of the checkout, ``argocd`` is Argo CD's namespace."""
    if not applications.installed(kube):
        return Status(list(_of_helm(kube, known)))
    found = applications.of_the_platform(kube, argocd)
    states = [_of_application(kube, name, each) for name, each in sorted(found.items())]
    by_argo_cd = {applications.release(each) for each in found.values() if applications.is_in_cluster(each)}
    states += [State(each.name) for each in known if each.name not in found]
    problems = []
    try:
        states += _of_helm(kube, known, by_argo_cd)
    except CliError as error:  # Argo CD's users need not be allowed to read Secrets
        problems.append(Problem("releases of Helm", error.message, error.cure))
    for what, why in applications.set_errors(kube, argocd):
        problems.append(Problem(what, why, cures.cure(why, OF_APPLICATION_SET)))
    return Status(states, problems)


# ---- Argo CD


def _of_application(kube: Kube, name: str, application: Json) -> State:
    revision, since = applications.deployed(application)
    problems = [Problem(what, why, _cure(why, name)) for what, why in applications.errors(application)]
    owned = applications.resources(application)
    if applications.is_in_cluster(application):
        problems += _looked_at(_of_workloads(kube, name, owned, applications.release(application)))
    else:
        problems += [
            Problem(what, why, _cure(why, name)) for what, why in applications.unhealthy(application)
        ]
    health = applications.health(application)
    unexplained = health not in ("Healthy", "Suspended") and not problems
    # While it syncs, objects are missing and progressing.
    if unexplained and not applications.is_syncing(application):
        metadata = application["metadata"]
        cure = f"kubectl -n {metadata['namespace']} describe application {metadata['name']}"
        problems.append(Problem("health", f"Argo CD says {health}, and no more", cure))
    return State(
        environment=name,
        by=ARGO_CD,
        revision=revision,
        wanted=applications.wanted_revision(application),
        since=since,
        sync=applications.sync(application),
        health=health,
        images=short_images(applications.images(application)),
        differs=applications.differing(application),
        problems=problems,
    )


# ---- Helm


def _of_helm(
    kube: Kube, known: Iterable[Environment], but: Iterable[tuple[str, str]] = ()
) -> Iterator[State]:
    """Yield what Helm has installed itself, by the name of its release: it knows no environments."""
    places = {(NAMESPACE, RELEASE), *((each.namespace, each.release) for each in known)}
    for namespace, name in sorted(places - set(but)):
        release = helm_release.find(kube, namespace, name)
        if release is None:
            continue
        label = f"{namespace}/{name}"
        owned = {Identity.of(each, namespace) for each in release.objects}
        problems = _looked_at(_of_workloads(kube, label, owned, (namespace, name)))
        if release.status != "deployed":
            cure = "run helm upgrade again, or helm rollback"
            problems.insert(0, Problem(f"release {name}", f"{release.status}: {release.description}", cure))
        yield State(
            environment=label,
            by=HELM,
            revision=f"{release.revision} ({release.chart})",
            wanted=str(release.revision),
            since=release.since,
            sync=release.status,
            health="Degraded" if problems else "Healthy",
            images=short_images(image_references(release.objects)),
            problems=problems,
        )


# ---- workloads


def _looked_at(found: Iterator[Problem]) -> list[Problem]:
    """Return the problems; where the cluster lets nobody look, that is one."""
    problems = []
    try:
        for each in found:
            problems.append(each)
    except CliError as error:
        problems.append(Problem("workloads", error.message, error.cure))
    return problems


def _of_workloads(
    kube: Kube, environment: str, owned: set[Identity], release: tuple[str, str]
) -> Iterator[Problem]:
    """Yield the workloads that are not ready, CronJobs whose last run failed, and DAGs that do not parse."""
    kinds = {kind for kind, _ in workloads.KINDS}
    namespaces = sorted({each.namespace for each in owned if each.kind in {*kinds, "CronJob"}})
    unready = [each for each in workloads.unready(kube, namespaces) if each.identity in owned]
    for each in unready:
        where = f"-n {each.namespace} {each.kind.lower()}/{each.name}"
        yield Problem(each.identity.title, each.why, _cure(each.why, environment, where))
    for one in sorted(owned):
        failed = workloads.failed_run(kube, one.namespace, one.name) if one.kind == "CronJob" else None
        if failed is not None:
            why = f"its last run {failed.name} failed: {failed.why}"
            cure = f"kubectl logs -n {one.namespace} job/{failed.name}; the next run that succeeds clears it"
            yield Problem(one.title, why, cure)
    yield from _import_errors(kube, release, {(each.kind, each.name) for each in unready})


def _import_errors(kube: Kube, release: tuple[str, str], unready: set[tuple[str, str]]) -> Iterator[Problem]:
    """Yield the DAG files that Airflow cannot read; asked through Kubernetes, so that no port is needed."""
    namespace, name = release
    selector = f"app.kubernetes.io/instance={name},app.kubernetes.io/component=api-server"
    services = kube.items(f"/api/v1/namespaces/{namespace}/services", labelSelector=selector)
    admin = secret(kube, namespace, ADMIN_SECRET)
    if not services or admin is None or ("Deployment", services[0]["metadata"]["name"]) in unready:
        return
    service, port = services[0]["metadata"]["name"], services[0]["spec"]["ports"][0]["name"]
    base = f"/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy"
    login = {key: admin[key] for key in ("username", "password")}
    try:
        token = kube.call("POST", f"{base}/auth/token", json=login)["access_token"]
        # A header with it would be taken by the API server of Kubernetes, for its own.
        answer = kube.call("GET", f"{base}/api/v2/importErrors", headers={"Cookie": f"_token={token}"})
    except CliError as error:
        yield Problem("Airflow", f"does not tell whether DAGs parse: {error.message}", error.cure)
        return
    for each in answer["import_errors"]:
        why = each["stack_trace"].strip().splitlines() or ["no reason given"]
        yield Problem(f"DAG file {each['filename']}", why[-1], "correct the file; the other DAGs go on")


def _cure(message: str, environment: str, where: str = "") -> str:
    places = {
        "file": environments.file(environment),
        "values": environments.values_file(environment),
        "where": where,
    }
    return cures.cure(message, places)


# ---- images


def short_images(references: Iterable[str]) -> list[str]:
    """Return images by their last name, tag and the start of their digest, sorted."""
    return sorted({short_image(each) for each in references})


def short_image(reference: str) -> str:
    """Return one image in short, e.g. mlflow:0.1.0@1a2b3c4d5e6f."""
    name, _, digest = reference.rpartition("/")[2].partition("@sha256:")
    return f"{name}@{digest[:SHOWN_DIGITS]}" if digest else name


# ---- showing


def show(status: Status, console: Console) -> None:
    """Print a table of the environments, and below it what is worth a line of its own."""
    table = Table(box=None, pad_edge=False)
    for column in ("environment", "revision", "since", "sync", "health"):
        table.add_column(column, no_wrap=column != "sync")
    for each in status.environments:
        style = {"Healthy": "green", "Degraded": "red", "Missing": "red"}.get(each.health, "yellow")
        table.add_row(
            each.environment, short(each.revision), _minute(each.since), each.sync, Text(each.health, style)
        )
    console.print(
        table if status.environments else "nothing is installed: ./scripts/up installs the platform"
    )
    for each in status.environments:
        lines = [*_facts(each), *(line for problem in each.problems for line in _problem(problem))]
        if lines:
            console.print(Text(f"\n{each.environment}", "bold"))
            for line in lines:
                console.print(line, soft_wrap=True)
    for problem in status.problems:
        console.print()
        for line in _problem(problem):
            console.print(line, soft_wrap=True)


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


def _facts(state: State) -> Iterator[Text]:
    if state.by == ARGO_CD and state.wanted != state.revision:
        yield Text(f"  wants: {short(state.wanted)}")
    if state.images:
        yield Text(f"  images: {', '.join(state.images)}")
    for each in state.differs:
        yield Text(f"  differs: {each}", "yellow")


def _problem(problem: Problem) -> Iterator[Text]:
    yield Text(f"  {problem.what}: ", "red").append("\n    ".join(problem.why.splitlines()), "default")
    if problem.cure:
        yield Text(f"    cure: {problem.cure}")
