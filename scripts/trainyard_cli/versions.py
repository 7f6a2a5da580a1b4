"""The versions in versions.yaml."""

from dataclasses import dataclass

import yaml

from . import paths

FILE = paths.ROOT / "versions.yaml"


@dataclass(frozen=True)
class Versions:
    """The file's keys."""

    trainyard: str
    kubernetes: str
    airflow: str
    mlflow: str
    postgresql: str
    pgbouncer: str
    statsd_exporter: str
    versitygw: str
    argocd: str
    kueue: str
    nvidia_device_plugin: str
    python: str
    host_python: str
    base_image: str
    node_base_image: str
    node_image: str

    @property
    def kubernetes_minor(self) -> str:
        """Return the version of Kubernetes' API, e.g. 1.35."""
        return self.kubernetes.rpartition(".")[0]


VERSIONS = Versions(**yaml.safe_load(FILE.read_text()))
