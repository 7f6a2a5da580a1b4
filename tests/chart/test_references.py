"""Each name, port and Secret follows where it is changed: nothing refers to what is not there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations
from typing import Any

import pytest
import yaml
from components import VARIANTS
from references import Place, References, place
from render import ChartError, Object, render_chart
from trainyard_cli.chart import merge

SUBCHARTS = ("airflow", "mlflow", "nvidia-device-plugin", "postgresql", "versitygw")
MLFLOW_ELSEWHERE = {"training": {"trackingUri": "http://mlflow.example.com"}}


def secret(*names: str) -> set[Place]:
    return {("Secret", "trainyard", name) for name in names}


# What the user makes, as the comments in these values files say.
EXTERNAL: dict[str, set[Place]] = {
    "production.yaml": secret(
        *("trainyard-airflow-metadata", "trainyard-mlflow-backend", "trainyard-database-ca", "airflow-tls")
    ),
    "dags-from-git.yaml": secret("ranking-git", "vision-git"),
    "backup.yaml": secret("trainyard-backup"),
    "pgbouncer.yaml": secret("trainyard-pgbouncer-config"),
    "single-sign-on.yaml": secret("trainyard-single-sign-on"),
    "closed-network.yaml": {
        ("Secret", namespace, "registry")
        for namespace in ("trainyard", "ml-training", "ml-serving", "nvidia-device-plugin")
    },
}
# What the user makes where a part of the platform is off.
INSTEAD: dict[str, set[Place]] = {
    "postgresql": secret("trainyard-airflow-metadata", "trainyard-mlflow-backend"),
    "versitygw": secret("trainyard-s3-connection"),
}


# The Secrets of MLflow's login, which nobody makes where the bootstrap Job is off.
LOGIN: set[Place] = {
    *secret("trainyard-mlflow-session", "trainyard-promoter"),
    *secret(
        *(f"trainyard-mlflow-login-{account}" for account in ("admin", "trainer", "promoter", "serving"))
    ),
    ("Secret", "ml-training", "trainyard-mlflow-login-trainer"),
    ("Secret", "ml-serving", "trainyard-mlflow-login-serving"),
}


def external(files: tuple[str, ...]) -> set[Place]:
    return {one for file in files for one in EXTERNAL.get(file, set())}


def put(path: str, value: Any) -> Object:
    """Values with one key set, given as a.b.c."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize("files", VARIANTS, ids=lambda files: "+".join(files) or "defaults")
def test_nothing_refers_to_what_is_not_there(files: tuple[str, ...]) -> None:
    assert References(render_chart(files=files), external(files)).check() == []


# A key that names something -> its new value, and what no text may hold any more.
CHANGED: dict[str, tuple[Any, str]] = {
    "airflow.fullnameOverride": (
        "flow",
        "trainyard-(api-server|scheduler|config|database-cleanup|fernet-key)",
    ),
    "mlflow.fullnameOverride": ("tracking", "trainyard-mlflow"),
    "postgresql.fullnameOverride": ("db", "trainyard-postgresql"),
    "versitygw.fullnameOverride": ("store", "trainyard-versitygw"),
    "nvidia-device-plugin.fullnameOverride": ("plugin", "trainyard-nvidia-device-plugin"),
    "airflow.nameOverride": (
        "flow",
        "trainyard-(api-server|scheduler|config|database-cleanup|fernet-key)",
    ),
    "mlflow.nameOverride": ("tracking", "trainyard-mlflow"),
    "postgresql.nameOverride": ("db", "trainyard-postgresql"),
    "versitygw.nameOverride": ("store", "trainyard-versitygw"),
    "nvidia-device-plugin.nameOverride": ("plugin", "trainyard-nvidia-device-plugin"),
    "airflow.data.metadataSecretName": ("other-metadata", "trainyard-airflow-metadata"),
    "airflow.fernetKeySecretName": ("other-fernet", "trainyard-fernet-key"),
    "airflow.jwtSecretName": ("other-jwt", "trainyard-jwt-secret"),
    "airflow.apiSecretKeySecretName": ("other-api", "trainyard-api-secret-key"),
    "secrets.admin.secretName": ("other-admin", "trainyard-admin"),
    "mlflow.backendStore.secretName": ("other-backend", "trainyard-mlflow-backend"),
    "mlflow.backendStore.secretKey": ("url", "key: connection, name: trainyard-mlflow-backend"),
    "postgresql.auth.secretName": ("other-database", "trainyard-postgresql/"),
    "versitygw.auth.secretName": ("other-objects", "trainyard-versitygw/"),
    "postgresql.auth.databases": (["airflow", "mlflow", "features"], "value: airflow mlflow}"),
    "mlflow.service.port": (5001, ":5000"),
    "versitygw.service.port": (7071, ":7070"),
    "airflow.ports.apiServer": (8081, ":8080"),
    "airflow.apiServer.service.ports": ([{"name": "web", "port": 80}], ":8080"),
    "training.namespace": ("team", "ml-training"),
    "training.serviceAccountName": ("robot", "name: trainer$"),
    "training.volumes.datasets.claimName": ("lake", "claimName: datasets"),
    "training.volumes.checkpoints.claimName": ("states", 'claimName": "checkpoints'),
    "serving.namespace": ("models", "ml-serving"),
    "serving.serviceAccountName": ("robot", r"\bmodel-server\b"),
    "training.priorityClassName": ("trainyard-interactive", '"priorityClassName": "trainyard-training"'),
    "airflow.logs.persistence.existingClaim": ("history", "airflow-logs"),
    "mlflow.serviceAccount.name": ("robot-tracking", "serviceAccountName: trainyard-mlflow"),
    "nvidia-device-plugin.namespaceOverride": ("plugins", "namespace: nvidia-device-plugin"),
    **{
        f"airflow.{component}.serviceAccount.name": (f"robot-{name}", f"serviceAccountName: trainyard-{name}")
        for component, name in {
            "apiServer": "api-server",
            "scheduler": "scheduler",
            "dagProcessor": "dag-processor",
            "triggerer": "triggerer",
            "workers": "airflow-worker",
            "migrateDatabaseJob": "migrate-database",
            "databaseCleanup": "database-cleanup",
        }.items()
    },
}
# An Ingress, HTTPRoutes and an autoscaler, so that what they lead to is followed as well.
ROUTE = {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["a.example.com"]}
INGRESS = {
    "airflow": {
        "ingress": {"apiServer": {"enabled": True, "hosts": [{"name": "a.example.com"}]}},
        "apiServer": {"httpRoute": ROUTE, "hpa": {"enabled": True}},
    },
    "mlflow": {"httpRoute": ROUTE},
    "versitygw": {"httpRoute": ROUTE},
}


def text(values: Object) -> str:
    objects = render_chart(values=values)
    return yaml.dump_all(objects, Dumper=yaml.CSafeDumper, default_flow_style=None, width=10_000)


def groups(every: Iterable[str], *some: tuple[str, ...]) -> Any:
    """Parameters `paths`: these keys at once, then all others at once, and for completeness each alone."""
    rest = tuple(path for path in every if not any(path in group for group in some))
    alone = [pytest.param((path,), marks=pytest.mark.exhaustive) for path in every]
    names = lambda paths: f"{paths[0]}+{len(paths) - 1}" if len(paths) > 1 else paths[0]  # noqa: E731
    return pytest.mark.parametrize("paths", [*some, rest, *alone], ids=names)


# The names of objects begin with these: in a render with the others they would hide an old name.
FULLNAMES = tuple(path for path in CHANGED if path.endswith(".fullnameOverride"))
NAMES = tuple(path for path in CHANGED if path.endswith(".nameOverride"))
# Of a Secret, and of a port, whose other key is among the rest.
SECOND_KEYS = ("mlflow.backendStore.secretKey", "airflow.ports.apiServer")


@groups(CHANGED, FULLNAMES, NAMES, SECOND_KEYS)
def test_a_changed_name_is_followed_everywhere(paths: tuple[str, ...]) -> None:
    values = INGRESS
    for path in paths:
        values = merge(values, put(path, CHANGED[path][0]))
    assert References(render_chart(values=values)).check() == []
    before, after = text(INGRESS), text(values)
    for path in paths:
        pattern = re.compile(CHANGED[path][1].replace('"', r"\W*"), re.MULTILINE)
        assert pattern.search(before), path
        assert not pattern.search(after), path


@pytest.mark.parametrize(
    "kind", ["Secret", "ConfigMap", "ServiceAccount", "PersistentVolumeClaim", "Service"]
)
def test_whatever_is_missing_is_found(kind: str) -> None:
    """Else the tests here would say nothing."""
    objects = render_chart(values=INGRESS)
    if kind == "Secret":
        left = [[one for one in objects if "bootstrap-secrets" not in one["metadata"]["name"]]]
    else:
        there = [one for one in objects if one["kind"] == kind]
        left = [[one for one in objects if one is not gone] for gone in there]
    for rest in left:
        assert References(rest).check(), {place(one) for one in objects} - {place(one) for one in rest}


PAIRS = [pytest.param(pair, marks=pytest.mark.exhaustive) for pair in combinations(SUBCHARTS, 2)]
OFF = [*((one,) for one in SUBCHARTS), SUBCHARTS, *PAIRS]


@pytest.mark.parametrize("off", OFF, ids="+".join)
def test_what_is_off_leaves_a_consistent_rest(off: tuple[str, ...]) -> None:
    values: Object = {name: {"enabled": False} for name in off}
    values = merge(values, MLFLOW_ELSEWHERE if "mlflow" in off else {})
    needed = {one for name in off for one in INSTEAD.get(name, set())}
    assert References(render_chart(values=values), needed).check() == []


# Other switches -> what somebody else makes where they are off.
SWITCHES: dict[str, set[Place]] = {
    "airflow.createUserJob.defaultUser.enabled": set(),
    "airflow.databaseCleanup.enabled": set(),
    "airflow.dags.image.enabled": set(),
    "airflow.migrateDatabaseJob.enabled": set(),
    "airflow.rbac.create": set(),
    "airflowLogs.create": {("PersistentVolumeClaim", "trainyard", "airflow-logs")},
    "mlflow.artifacts.persistence.enabled": set(),
    "mlflow.garbageCollection.enabled": set(),
    "nvidia-device-plugin.createNamespace": set(),
    "serving.createNamespace": set(),
    "serving.enabled": set(),
    "training.createNamespace": set(),
    "training.volumes.datasets.create": {("PersistentVolumeClaim", "ml-training", "datasets")},
    "priorityClasses.trainyard-critical.enabled": {("PriorityClass", None, "trainyard-critical")},
    "secrets.bootstrap.enabled": {
        *secret(
            "trainyard-admin", "trainyard-fernet-key", "trainyard-jwt-secret", "trainyard-api-secret-key"
        ),
        *secret("trainyard-postgresql"),
        *(INSTEAD["postgresql"] | INSTEAD["versitygw"]),
        ("Secret", "ml-training", "trainyard-versitygw"),
        *LOGIN,
    },
    **{
        f"{chart}.serviceAccount.create": {("ServiceAccount", "trainyard", name)}
        for chart, name in {
            "airflow.triggerer": "trainyard-triggerer",
            "airflow.workers": "trainyard-airflow-worker",
            "mlflow": "trainyard-mlflow",
        }.items()
    },
}


# What is off with them needs nothing of the others any more.
WHOLE_PARTS = ("secrets.bootstrap.enabled", "serving.enabled")


@groups(SWITCHES, WHOLE_PARTS)
def test_what_is_switched_off_is_not_referred_to(paths: tuple[str, ...]) -> None:
    values: Object = {}
    for path in paths:
        values = merge(values, put(path, False))
        if path == "mlflow.artifacts.persistence.enabled":
            values = merge(values, put("mlflow.artifacts.destination", "s3://artifacts"))
    needed = {one for path in paths for one in SWITCHES[path]}
    assert References(render_chart(values=values), needed).check() == []


def test_one_secret_may_hold_every_key() -> None:
    keys = ("fernetKeySecretName", "jwtSecretName", "apiSecretKeySecretName")
    airflow = {**dict.fromkeys(keys, "all"), "data": {"metadataSecretName": "all"}}
    rest = {"secrets": {"admin": {"secretName": "all"}}, "postgresql": {"auth": {"secretName": "all"}}}
    mlflow = {"backendStore": {"secretName": "all", "secretKey": "mlflow"}}
    references = References(render_chart(values={"airflow": airflow, "mlflow": mlflow, **rest}))
    assert references.check() == []
    assert {key for _, name, key in references.secrets if name == "all"} >= {
        *("fernet-key", "jwt-secret", "api-secret-key", "connection", "mlflow"),
        *("username", "password", "postgres-password", "airflow-password"),
    }


def test_one_key_cannot_hold_two_things() -> None:
    values = {
        "airflow": {"data": {"metadataSecretName": "all"}},
        "mlflow": {"backendStore": {"secretName": "all"}},
    }
    said = r"mlflow\.backendStore\.secretName: the key connection of the Secret all is that of airflow\.data"
    with pytest.raises(ChartError, match=said):
        render_chart(values=values)
    # Where it comes from elsewhere, it is as the user wants it.
    render_chart(values={**values, "secrets": {"external": ["all"]}})


@pytest.mark.parametrize("namespace", ["", "elsewhere"])
def test_an_airflow_from_elsewhere_finds_all_that_it_needs(namespace: str) -> None:
    airflow = {"namespace": namespace, "serviceAccounts": ["triggerer"]}
    objects = render_chart(values={"airflow": {"enabled": False}, "externalAirflow": airflow})
    space = namespace or "trainyard"
    references = References(objects, {("ServiceAccount", space, "triggerer")})
    assert references.check() == []
    assert (space, "trainyard-s3-connection", "connection") in references.secrets
    assert ("ConfigMap", space, "trainyard-platform") in references.places
