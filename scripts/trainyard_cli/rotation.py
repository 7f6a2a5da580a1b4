"""Replaces credentials of a running release: its Secrets, what is composed of them, and pods that read them.

The bootstrap Job says which Secrets there are and how each comes about, whatever the release's values are.
Every step can be done again: a rotation that was broken off is finished by the next one.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from .chart import CHART
from .errors import CliError
from .installed import Installed
from .kube import secret
from .objects import Identity
from .release import wait_for_workloads
from .shell import run
from .stages import Stages
from .workloads import LASTING, identity, list_path, path

Json = dict[str, Any]

CREDENTIALS = {
    "database": "passwords of the embedded database",
    "fernet-key": "the key by which Airflow encrypts connections and variables",
    "jwt": "the key by which Airflow signs the tokens of tasks and of users",
    "mlflow": "passwords of MLflow's accounts",
    "object-store": "secret keys of the embedded object store's accounts",
    "sessions": "the keys by which Airflow and MLflow sign the sessions of their pages",
}
"""What can be rotated. The names stand in templates/_wanted-secrets.tpl."""

BOOTSTRAP = "trainyard-bootstrap-secrets"
# Its Secrets: those that Helm manages say so.
BOOTSTRAPPED = "app.kubernetes.io/part-of=trainyard,!app.kubernetes.io/managed-by"
# What `kubectl rollout restart` sets.
RESTARTED = "kubectl.kubernetes.io/restartedAt"
PAUSE_SECONDS = 2.0
EXEC_SECONDS = 300


@dataclass(frozen=True)
class Release(Installed):
    """A release whose containers run commands: ``kubectl`` is the command with the cluster's options."""

    kubectl: tuple[str | Path, ...]

    def execute(self, workload: Identity, command: list[str], given: str = "") -> None:
        """Run a command in the first container of a workload's pod; ``given`` is its standard input."""
        where = [f"--namespace={workload.namespace}", f"{workload.kind.lower()}/{workload.name}"]
        run([*self.kubectl, "exec", "--stdin", *where, "--", *command], input=given, timeout=EXEC_SECONDS)

    def write(self, name: str, values: dict[str, str]) -> None:
        """Set keys of a Secret."""
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        self.kube.patch(self.secret_path(name), {"data": data})

    def read(self, name: str) -> dict[str, str]:
        """Return the keys and values of a Secret, which is there."""
        return secret(self.kube, *self.place(name)) or {}

    def secret_path(self, name: str) -> str:
        """Return the path of a Secret in the API."""
        namespace, own = self.place(name)
        return f"/api/v1/namespaces/{namespace}/secrets/{own}"

    def place(self, name: str) -> tuple[str, str]:
        """Return namespace and name of a Secret, which the Job calls NAME or NAMESPACE/NAME."""
        namespace, _, own = name.rpartition("/")
        return namespace or self.namespace, own


Wanted = dict[str, dict[str, dict[str, str]]]
"""What the bootstrap Job makes: Secret -> key -> how its value comes about."""


class Recipes:
    """New values of what the bootstrap Job makes."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._script = _bootstrap_script()

    def new_values(self, credential: str) -> dict[str, dict[str, str]]:
        """Return new values of the keys that are this credential, by Secret."""
        values: dict[str, dict[str, str]] = {}
        for name, key, recipe in self._all():
            if recipe.get("credential") == credential:
                values.setdefault(name, {})[key] = self._script.make_value(recipe, None)
        return values

    def composed_of(self, changed: Collection[str]) -> Iterator[tuple[str, str, dict[str, str]]]:
        """Yield Secret, key and recipe of what is composed of these Secrets."""
        for name, key, recipe in self._all():
            sources = {match[0] for match in self._script.REFERENCE.findall(recipe.get("template", ""))}
            if sources & set(changed):
                yield name, key, recipe

    def composed(
        self, changed: Collection[str], read: Callable[[str], dict[str, str]]
    ) -> dict[str, dict[str, str]]:
        """Return the values, as they are to be, of the keys that are composed of these Secrets."""
        values: dict[str, dict[str, str]] = {}
        for name, key, recipe in self.composed_of(changed):
            values.setdefault(name, {})[key] = self._script.make_value(recipe, read)
        return values

    def foreign(
        self, changed: Collection[str], read: Callable[[str], dict[str, str]]
    ) -> Iterator[tuple[str, str]]:
        """Yield Secret and key of what the Job would compose of these Secrets, and somebody else has made."""
        for name, key, recipe in self.composed_of(changed):
            # Between two texts there are a Secret and a key.
            texts = self._script.REFERENCE.split(recipe["template"])[::3]
            shape = ".+".join(re.escape(text) for text in texts)
            if not re.fullmatch(shape, read(name).get(key, ""), re.DOTALL):
                yield name, key

    @property
    def names(self) -> Collection[str]:
        """The Secrets that the Job makes."""
        return self._wanted.keys()

    @property
    def know_credentials(self) -> bool:
        """Whether the chart says of anything which credential it is."""
        return any("credential" in recipe for _, _, recipe in self._all())

    def _all(self) -> Iterator[tuple[str, str, dict[str, str]]]:
        for name, keys in self._wanted.items():
            yield from ((name, key, recipe) for key, recipe in keys.items())


def recipes(release: Release) -> Recipes:
    """Return how what the release's bootstrap Job makes comes about; CliError where it has none."""
    return Recipes(wanted(release))


def wanted(release: Release) -> Wanted:
    """Return the Secrets that the release's bootstrap Job makes; CliError where it has none."""
    jobs = release.jobs(BOOTSTRAP)
    if not jobs:
        raise CliError(
            f"namespace {release.namespace} has no bootstrap Job of a release {release.name}",
            "name the release with --release and --namespace; with secrets.bootstrap.enabled: false, "
            "change the Secrets where they come from",
        )
    (container,) = jobs[-1]["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each.get("value", "") for each in container["env"]}
    found: Wanted = json.loads(environment["SECRETS"])
    return found


def rotate(stages: Stages, release: Release, credential: str, *, now: bool = False) -> None:
    """Replace a credential and return when all that uses it has the new one.

    Waits first for pods that hold the old one until they end; not if ``now``.
    """
    known = recipes(release)
    values = known.new_values(credential)
    if not known.know_credentials:
        raise CliError("the release is of a chart that knows no rotation", "upgrade it, then rotate")
    if not values:
        raise CliError(
            f"the bootstrap Job of {release.name} makes no Secret with {CREDENTIALS[credential]}",
            "change it where it comes from (secrets.external, or a service of your own), "
            "then restart what reads it: kubectl rollout restart",
        )
    names = {*values, *(name for name, _, _ in known.composed_of(values))}
    for name in sorted(names):
        _check_own(release, name)
    for name, key in known.foreign(values, release.read):
        raise CliError(
            f"the key {key} of the Secret {'/'.join(release.place(name))} was not made by the bootstrap Job",
            "name the Secret in secrets.external; a rotation then leaves it to you",
        )
    places = {release.place(name) for name in names}
    if not now:
        with stages("wait") as stage:
            while holders := sorted(_holders(release, places, workers=credential == "jwt")):
                shown = ", ".join(holders[:3])
                stage.update(
                    f"{len(holders)} pods hold the old one until they end ({shown}); pause DAGs, or use --now"
                )
                time.sleep(PAUSE_SECONDS)
    readers = set(_readers(release, places))
    match credential:
        case "fernet-key":
            server = _component(release, "Deployment", "api-server")
            _rotate_fernet_key(stages, release, values, readers, server)
        case "database":
            server = _component(release, "StatefulSet", "database")
            _rotate(stages, release, known, values)
            with stages("database"):
                _set_passwords(release, server, values)
            # The server read them when it was made.
            _restart(stages, release, readers - {server})
        case "jwt":
            # All at once: a task that starts between two restarts would get a token that is refused.
            old = list(_pods_of(release, readers))
            _rotate(stages, release, known, values)
            _restart(stages, release, readers, at_once=old)
        case _:
            _rotate(stages, release, known, values)
            _restart(stages, release, readers)


def _rotate(stages: Stages, release: Release, known: Recipes, values: dict[str, dict[str, str]]) -> None:
    """Write new values, and what is composed of them."""
    with stages("secrets") as stage:
        for place in list(leftovers(release, known, values)):
            stage.update("/".join(place))
            release.kube.delete(release.secret_path("/".join(place)))
        for name, each in values.items():
            stage.update(name)
            release.write(name, each)
        for name, each in known.composed(values, release.read).items():
            stage.update(name)
            release.write(name, each)


def leftovers(
    release: Release, known: Recipes, values: dict[str, dict[str, str]]
) -> Iterator[tuple[str, str]]:
    """Yield the Secrets that have no use now and hold what ``values`` replace, as namespace and name.

    The bootstrap Job made them when the release had other values, as for PgBouncer. It makes what is wanted
    again, but leaves what is there as it is.
    """
    old = {release.read(name).get(key, "") for name, keys in values.items() for key in keys} - {""}
    in_use = {release.place(name) for name in known.names}
    for namespace in sorted({release.namespace, *(namespace for namespace, _ in in_use)}):
        path = f"/api/v1/namespaces/{namespace}/secrets"
        for each in release.kube.items(path, labelSelector=BOOTSTRAPPED):
            place = (namespace, each["metadata"]["name"])
            texts = [
                base64.b64decode(value).decode(errors="replace")
                for value in (each.get("data") or {}).values()
            ]
            if place not in in_use and any(value in text for value in old for text in texts):
                yield place


def _rotate_fernet_key(
    stages: Stages,
    release: Release,
    values: dict[str, dict[str, str]],
    readers: set[Identity],
    server: Identity,
) -> None:
    """Give Airflow the new key beside the old one, encrypt all anew, and take the old one away."""
    ((name, keys),) = values.items()
    ((key, new),) = keys.items()
    before = release.read(name)[key]
    # With two keys there is a rotation that was broken off.
    both = before if "," in before else f"{new},{before}"
    with stages("secrets"):
        release.write(name, {key: both})
    _restart(stages, release, readers)
    with stages("encrypt"):
        try:
            release.execute(server, ["airflow", "rotate-fernet-key"])
        except CliError as error:
            cure = (
                "if a connection or variable is of an older key (InvalidToken), delete it, or put that key "
                f"behind the others in the Secret {'/'.join(release.place(name))} (NEW,OLD,OLDER); "
                "then rotate again"
            )
            raise CliError(f"Airflow still has both keys: {error.message}", cure) from error
    with stages("secrets"):
        release.write(name, {key: both.partition(",")[0]})
    _restart(stages, release, readers)


def _set_passwords(release: Release, server: Identity, values: dict[str, dict[str, str]]) -> None:
    """Set the passwords of the database's roles: the key ROLE-password holds that of ROLE."""
    passwords = {
        key.removesuffix("-password"): value for keys in values.values() for key, value in keys.items()
    }
    statements = [
        f"ALTER ROLE \"{role}\" PASSWORD '{password}';\n" for role, password in sorted(passwords.items())
    ]
    # On standard input: arguments are seen by everybody on the node.
    psql = ["psql", "--username=postgres", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction"]
    release.execute(server, psql, "".join(statements))


# ---- who uses a Secret


def _component(release: Release, kind: str, component: str) -> Identity:
    """Return a workload of the release's own: others may read its Secrets as well."""
    for each in release.workloads(component):
        if each.kind == kind:
            return each
    raise CliError(
        f"{release.name} has no {kind} {component} in namespace {release.namespace}",
        "name the release with --release and --namespace",
    )


def _check_own(release: Release, name: str) -> None:
    """Refuse a Secret that is missing, or that another controller writes."""
    found = release.kube.find(release.secret_path(name))
    where = "/".join(release.place(name))
    if found is None:
        raise CliError(f"the Secret {where} is missing", "docs/operations.md says how it is made again")
    for owner in found["metadata"].get("ownerReferences", []):
        raise CliError(
            f"the Secret {where} belongs to {owner['kind']} {owner['name']}",
            "rotate it there, and name the Secret in secrets.external",
        )


def _readers(release: Release, places: Collection[tuple[str, str]]) -> Iterator[Identity]:
    """Yield the workloads whose pods read one of these Secrets when they start, and never again."""
    for namespace in sorted({namespace for namespace, _ in places}):
        for kind in LASTING:
            for each in release.kube.items(list_path(kind, namespace)):
                if _reads(namespace, each["spec"]["template"]["spec"], places):
                    yield identity(kind, namespace, each["metadata"]["name"])


def _holders(release: Release, places: Collection[tuple[str, str]], *, workers: bool) -> Iterator[str]:
    """Yield the running pods of tasks and Jobs that have read one of these Secrets; also ``workers``."""
    for namespace in sorted({release.namespace, *(namespace for namespace, _ in places)}):
        for pod in release.kube.items(f"/api/v1/namespaces/{namespace}/pods"):
            metadata = pod["metadata"]
            owners = {each["kind"] for each in metadata.get("ownerReferences", [])}
            lasting = owners & {"ReplicaSet", "StatefulSet", "DaemonSet"}
            if lasting or pod["status"].get("phase") in ("Succeeded", "Failed"):
                continue
            is_worker = metadata.get("labels", {}).get("kubernetes_executor") == "True"
            if (workers and is_worker) or _reads(namespace, pod["spec"], places):
                yield f"{namespace}/{metadata['name']}"


def _reads(namespace: str, pod: Json, places: Collection[tuple[str, str]]) -> bool:
    return any((namespace, name) in places for name in _read_at_start(pod))


def _read_at_start(pod: Json) -> Iterator[str]:
    """Yield the Secrets in a pod's environment, what its init containers mount, and single files of others.

    Other mounted files follow their Secret, and what reads them reads them anew.
    """
    init = pod.get("initContainers") or []
    containers = [*init, *pod["containers"]]
    for container in containers:
        for variable in container.get("env") or []:
            if name := ((variable.get("valueFrom") or {}).get("secretKeyRef") or {}).get("name"):
                yield name
        for source in container.get("envFrom") or []:
            if name := (source.get("secretRef") or {}).get("name"):
                yield name
    mounted = {
        mount["name"]
        for container in containers
        for mount in container.get("volumeMounts") or []
        if container in init or mount.get("subPath")
    }
    for volume in pod.get("volumes") or []:
        if volume["name"] in mounted:
            if name := (volume.get("secret") or {}).get("secretName"):
                yield name
            for source in (volume.get("projected") or {}).get("sources") or []:
                if name := (source.get("secret") or {}).get("name"):
                    yield name


# ---- restarts


def _restart(
    stages: Stages, release: Release, readers: Collection[Identity], at_once: Collection[str] = ()
) -> None:
    """Restart workloads as `kubectl rollout restart` does, and wait; pods ``at_once`` (paths) end now."""
    patch = {"spec": {"template": {"metadata": {"annotations": {RESTARTED: datetime.now(UTC).isoformat()}}}}}
    with stages("restart") as stage:
        for each in readers:
            release.kube.patch(path(each), patch)
        for pod in at_once:
            release.kube.delete(pod)
        namespaces = tuple(sorted({each.namespace for each in readers}))
        wait_for_workloads(release.kube, stage, namespaces, only=readers)


def _pods_of(release: Release, workloads: Collection[Identity]) -> Iterator[str]:
    """Yield the paths of the pods of workloads."""
    for each in workloads:
        labels = release.kube.get(path(each))["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        pods = f"/api/v1/namespaces/{each.namespace}/pods"
        for pod in release.kube.items(pods, labelSelector=selector):
            yield f"{pods}/{pod['metadata']['name']}"


def _bootstrap_script() -> ModuleType:
    """Import the script that makes the Secrets: it knows how a value comes about."""
    file = CHART / "files/bootstrap_secrets.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
