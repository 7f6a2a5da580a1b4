"""Client of MLflow's REST API: which model version a run registered, and how good it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from .errors import CliError

Json = dict[str, Any]

PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class ModelVersion:
    """One registered version. `metrics` are the last values that its MLflow run logged."""

    name: str
    version: str
    aliases: tuple[str, ...]
    run_id: str
    tags: dict[str, str]
    metrics: dict[str, float]


Login = tuple[str, str]


class Mlflow:
    """One MLflow tracking server and registry.

    `login` returns the user and the password; None where it asks for none. It is called again when they are
    refused: a rotation has changed them.
    """

    def __init__(self, base_url: str, login: Callable[[], Login | None] = lambda: None) -> None:
        self.base_url = base_url.rstrip("/")
        self._login = login
        self.auth = login()
        self._http = httpx.Client(base_url=f"{self.base_url}/api/2.0/mlflow", timeout=30, trust_env=False)

    def versions_of_run(self, run_key: str) -> list[ModelVersion]:
        """Return the model versions that carry the tag trainyard.run_key, oldest first."""
        query = {"filter": f"tag.`trainyard.run_key` = '{run_key}'", "max_results": 100}
        found = self.get("model-versions/search", query).get("model_versions", [])
        return sorted((self._version(each) for each in found), key=lambda each: int(each.version))

    def run_url(self, version: ModelVersion) -> str:
        """Return the address of the run's page."""
        experiment = self.get("runs/get", {"run_id": version.run_id})["run"]["info"]["experiment_id"]
        return f"{self.base_url}/#/experiments/{experiment}/runs/{version.run_id}"

    def _version(self, found: Json) -> ModelVersion:
        model = self.get("registered-models/get", {"name": found["name"]})["registered_model"]
        aliases = [each["alias"] for each in model.get("aliases", []) if each["version"] == found["version"]]
        data = self.get("runs/get", {"run_id": found["run_id"]})["run"]["data"] if found.get("run_id") else {}
        return ModelVersion(
            name=found["name"],
            version=found["version"],
            aliases=tuple(sorted(aliases)),
            run_id=found.get("run_id", ""),
            tags={each["key"]: each["value"] for each in found.get("tags", [])},
            metrics={each["key"]: float(each["value"]) for each in data.get("metrics", [])},
        )

    def get(self, path: str, params: Json) -> Json:
        """Return what the server has at a path of its API."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                response = self._http.get(path, params=params, auth=self.auth)
                if response.is_success:
                    return dict(response.json())
                problem = f"HTTP {response.status_code}: {response.text[:300]}"
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.status_code == httpx.codes.UNAUTHORIZED and self.auth != (new := self._login()):
                    self.auth = new
                    continue
                if response.status_code < 500:
                    raise CliError(f"MLflow refused {path}: {problem}", "see the message")
            if time.monotonic() > deadline:
                cure = "kubectl -n trainyard logs deploy/trainyard-mlflow shows why"
                raise CliError(f"MLflow at {self.base_url} does not answer ({problem})", cure)
            time.sleep(1)
