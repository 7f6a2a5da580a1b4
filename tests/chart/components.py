"""Every object that runs pods, registered once; test_invariants.py holds for each of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Component:
    """A workload: how it is switched off, and whether its pods may talk to the Kubernetes API."""

    kind: str
    name: str
    switch: str  # the values key that turns it off
    token: bool = False  # its ServiceAccount's token is mounted
    namespace: str = "trainyard"

    @property
    def identity(self) -> tuple[str, str]:
        """Kind and name, a Job's without its hash."""
        return self.kind, self.name


ALWAYS = [
    Component("Deployment", "trainyard-api-server", "airflow"),
    Component("Deployment", "trainyard-scheduler", "airflow", token=True),
    Component("Deployment", "trainyard-dag-processor", "airflow"),
    Component("Deployment", "trainyard-triggerer", "airflow", token=True),
    Component("Deployment", "trainyard-reconciler", "airflow", token=True),
    Component("Deployment", "trainyard-mlflow", "mlflow"),
    Component("Job", "trainyard-migrate-database", "airflow"),
    Component("Job", "trainyard-bootstrap-secrets", "secrets", token=True),
    Component("Job", "trainyard-airflow-pools", "airflow"),
    Component("Job", "trainyard-training-volumes", "training", namespace="ml-training"),
    Component("CronJob", "trainyard-database-cleanup", "airflow"),
    Component("CronJob", "trainyard-mlflow-garbage-collection", "mlflow"),
    Component("Deployment", "trainyard-versitygw", "versitygw", namespace="ml-training"),
]
# Training pods mount no claim: nothing has to be bound for them.
WITHOUT_VOLUMES = [one for one in ALWAYS if one.name != "trainyard-training-volumes"]
DATABASE = [Component("StatefulSet", "trainyard-postgresql", "postgresql")]
PLUGIN = "nvidia-device-plugin"
REAL_GPUS = [Component("DaemonSet", "trainyard-nvidia-device-plugin", PLUGIN, namespace=PLUGIN)]
SIMULATED_GPUS = [
    Component("DaemonSet", f"trainyard-nvidia-device-plugin-{pool}", PLUGIN, namespace=PLUGIN)
    for pool in ("ondemand", "spot")
]

GIT_BUNDLES = [
    Component("Deployment", f"trainyard-dag-publisher-{bundle}", "airflow")
    for bundle in ("ranking", "vision")
]

BACKUP = [
    Component("CronJob", "trainyard-backup", "backup"),
    Component("CronJob", "trainyard-restore", "backup"),
    Component("Job", "trainyard-backup-place", "backup"),
]

PGBOUNCER = [Component("Deployment", "trainyard-pgbouncer", "airflow")]
STATSD = [Component("Deployment", "trainyard-statsd", "airflow")]

# Values files, in order -> the workloads that they make.
VARIANTS: dict[tuple[str, ...], list[Component]] = {
    (): [*ALWAYS, *DATABASE, *REAL_GPUS],
    ("kind.yaml",): [*ALWAYS, *DATABASE, *SIMULATED_GPUS],
    ("production.yaml",): [*ALWAYS, *REAL_GPUS],
    # Their images are in environment.yaml: test_environments.py.
    **{
        ("production.yaml", f"environments/{name}/values.yaml"): [*ALWAYS, *REAL_GPUS]
        for name in ("dev", "staging", "production")
    },
    ("production.yaml", "eks.yaml"): [*ALWAYS, *REAL_GPUS],
    ("production.yaml", "gke.yaml"): ALWAYS,
    ("production.yaml", "aks.yaml"): [*ALWAYS, *REAL_GPUS],
    ("production.yaml", "dags-from-git.yaml"): [*ALWAYS, *REAL_GPUS, *GIT_BUNDLES],
    ("production.yaml", "backup.yaml"): [*ALWAYS, *REAL_GPUS, *BACKUP],
    ("production.yaml", "pgbouncer.yaml"): [*ALWAYS, *REAL_GPUS, *PGBOUNCER],
    ("production.yaml", "statsd.yaml"): [*ALWAYS, *REAL_GPUS, *STATSD],
    ("production.yaml", "single-sign-on.yaml"): [*ALWAYS, *REAL_GPUS],
    ("production.yaml", "object-storage.yaml"): [*WITHOUT_VOLUMES, *REAL_GPUS],
    ("production.yaml", "object-storage.yaml", "closed-network.yaml"): [*WITHOUT_VOLUMES, *REAL_GPUS],
}
EVERY = [(files, component) for files, components in VARIANTS.items() for component in components]

# Exemptions from an invariant, each with its reason.
ROOT_ALLOWED = {
    PLUGIN: "the kubelet's device plugin directory belongs to root",
}
HOST_PATH_ALLOWED = {
    PLUGIN: "a device plugin meets the kubelet through a socket in its directory",
}
NO_PROBE_NEEDED = {
    "trainyard-nvidia-device-plugin": "NVIDIA's plugin exits by itself when it cannot go on",
}
