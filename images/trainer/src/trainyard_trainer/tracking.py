"""MLflow: one run per run key, whatever number of pods work on it, and each metric step once.

Only the client API is used, so that nothing depends on a process-wide active run.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trainyard_trainer import log
from trainyard_trainer.errors import BadConfig, Temporary
from trainyard_trainer.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunInfo

Result = TypeVar("Result")
RUN_KEY_TAG = "trainyard.run_key"
_PARENT_TAG = "mlflow.parentRunId"
_USER_TAG = "mlflow.user"
WEIGHTS_TAG = "trainyard.weights_sha256"
# Two tries of at most 20 s within each call: patience is the Tracker's, and training goes on without any.
CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_REFUSED = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
}
_METRICS_PER_CALL = 1000  # MLflow's own limit


class Tracker:
    """The MLflow run of one run key."""

    def __init__(self, settings: Settings, run_key: str) -> None:
        """Find the run, or create it. Raises Temporary when MLflow does not answer for long."""
        self._patience = settings.tracking_patience
        self._uri = settings.tracking_uri
        self._client = connect(settings.tracking_uri)
        self._run_key = run_key
        self._logged: dict[str, set[int]] = {}  # steps per metric key, as far as they were read
        tags = {
            RUN_KEY_TAG: run_key,
            "trainyard.attempt": str(settings.attempt),
            "trainyard.device": settings.device,
            **settings.tags,
        }
        if settings.batch_divisor > 1:
            tags["trainyard.batch_divisor"] = str(settings.batch_divisor)
        if settings.git_commit:
            tags |= {
                "trainyard.git_commit": settings.git_commit,
                "mlflow.source.git.commit": settings.git_commit,
            }
        self._parent_key = settings.parent_run_key
        # MLflow takes the user of a run from the tags that it begins with.
        self._user = {key: value for key, value in tags.items() if key == _USER_TAG}
        self.experiment_id, self.run_id = self._patiently(lambda: self._open(settings))
        self.tag(tags | self._patiently(self._parent))
        self._set_status("RUNNING")

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        from mlflow.entities import RunTag

        entities = [RunTag(key, value) for key, value in tags.items()]
        self._patiently(lambda: self._client.log_batch(self.run_id, tags=entities))

    def params(self, params: Mapping[str, Any]) -> None:
        """Log the parameters once. Raises BadConfig when the run already has one with another value."""
        from mlflow.entities import Param

        known = self._patiently(lambda: self._client.get_run(self.run_id)).data.params
        for key, value in params.items():
            if known.get(key, str(value)) != str(value):
                raise BadConfig(
                    f"MLflow run {self.run_id} of run key {self._run_key!r} has {key}={known[key]}, "
                    f"this step has {key}={value}; use the former, or another --run-key"
                )
        entities = [Param(key, str(value)) for key, value in params.items()]
        self._patiently(lambda: self._client.log_batch(self.run_id, params=entities))

    def epochs(self, history: Sequence[Mapping[str, Any]], *, patient: bool) -> bool:
        """Log those epochs of the history that MLflow does not have yet; return whether it has all now.

        An entry holds `epoch` (the step), `timestamp_ms` (since 1970) and metrics. Epochs that were trained
        again after a kill, and answers that were lost, hence leave neither a gap nor a duplicate.
        Raises Temporary when MLflow does not answer, if `patient`.
        """

        def send() -> bool:
            try:
                self._send(list(_metrics(history)))
            except BaseException:
                self._logged.clear()  # nobody knows what has arrived
                raise
            return True

        if patient:
            return self._patiently(send)
        try:
            return _translated(send)
        except Temporary as error:
            log.warning("tracking_deferred", reason=str(error))
            return False

    def _send(self, metrics: list["Metric"]) -> None:
        for key in {metric.key for metric in metrics} - self._logged.keys():
            self._logged[key] = {entry.step for entry in self._client.get_metric_history(self.run_id, key)}
        new = [metric for metric in metrics if metric.step not in self._logged[metric.key]]
        for start in range(0, len(new), _METRICS_PER_CALL):
            part = new[start : start + _METRICS_PER_CALL]
            self._client.log_batch(self.run_id, metrics=part)
            for metric in part:
                self._logged[metric.key].add(metric.step)

    def score(self, metrics: Mapping[str, float], step: int, model_id: str | None) -> None:
        """Log the metrics of a finished model to the run and to the model; the same ones only once."""
        from mlflow.entities import Metric

        def send() -> None:
            known = self._client.get_run(self.run_id).data.metrics
            now = int(time.time() * 1000)
            new = [
                Metric(key, value, now, step, model_id=model_id, run_id=self.run_id)
                for key, value in metrics.items()
                if known.get(key) != value
            ]
            if new:
                self._client.log_batch(self.run_id, metrics=new)

        self._patiently(send)

    def artifact(self, file: Path, directory: str) -> None:
        """Upload a file into a directory of the run's artifacts."""
        self._patiently(lambda: self._client.log_artifact(self.run_id, str(file), directory))

    def model(self, name: str, directory: Path, weights: str, *, step: int, params: Mapping[str, Any]) -> str:
        """Log the model in the directory once for its weights (their SHA-256), and return its URI."""
        from mlflow.entities import LoggedModelOutput

        def send() -> str:
            for model in self._models():
                if model.tags.get(WEIGHTS_TAG) == weights:
                    return str(model.model_uri)
            model = self._client.create_logged_model(
                self.experiment_id,
                name=name,
                source_run_id=self.run_id,
                tags={RUN_KEY_TAG: self._run_key, WEIGHTS_TAG: weights},
                params={key: str(value) for key, value in params.items()},
            )
            self._client.log_model_artifacts(model.model_id, str(directory))
            self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step)])
            self._client.finalize_logged_model(model.model_id, "READY")
            return str(model.model_uri)

        return self._patiently(send)

    def newest_model(self) -> str:
        """Return the URI of the newest model of this run key. Raises BadConfig when there is none."""
        models = self._patiently(self._models)
        if not models:
            raise BadConfig(
                f"run key {self._run_key!r} has no model in MLflow; run the step train first, "
                "or name one by the parameter 'model_uri'"
            )
        return str(models[0].model_uri)

    def champion(self, model: str) -> str | None:
        """Return the champion's version of a registered model; None without such a model or a champion."""
        from mlflow.exceptions import MlflowException

        def find() -> str | None:
            try:
                return str(self._client.get_model_version_by_alias(model, "champion").version)
            except MlflowException as error:
                # A missing alias is INVALID_PARAMETER_VALUE in the stores, a missing model the other one.
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

        return self._patiently(find)

    def download(self, model_uri: str, directory: Path) -> Path:
        """Download a model into the directory and return where it lies."""
        from mlflow.artifacts import download_artifacts

        def fetch() -> str:
            return str(download_artifacts(model_uri, dst_path=str(directory), tracking_uri=self._uri))

        return Path(self._patiently(fetch))

    def end(self, *, failed: bool = False) -> None:
        """Say in MLflow that a step is over; the next step of the run key opens the run again."""
        if parent := self._patiently(self._parent):  # by now all that start together agree
            self.tag(parent)
        self._set_status("FAILED" if failed else "FINISHED")

    def _set_status(self, status: str) -> None:
        # update_run leaves the end time alone, which set_terminated sets; a run that goes on has none.
        if status == "RUNNING":
            self._patiently(lambda: self._client.update_run(self.run_id, status=status))
        else:
            self._patiently(lambda: self._client.set_terminated(self.run_id, status))

    def _patiently(self, call: Callable[[], Result]) -> Result:
        return patiently(call, self._patience)

    def _open(self, settings: Settings) -> tuple[str, str]:
        if settings.mlflow_run_id:
            info = self._client.get_run(settings.mlflow_run_id).info
            return info.experiment_id, info.run_id
        experiment_id = self._experiment(settings.experiment)
        return experiment_id, self._find_or_create(experiment_id, self._run_key)

    def _parent(self) -> dict[str, str]:
        """Return the tag that puts the run below its parent's, which is made if it is not there."""
        if not self._parent_key:
            return {}
        return {_PARENT_TAG: self._find_or_create(self.experiment_id, self._parent_key, status="FINISHED")}

    def _find_or_create(self, experiment_id: str, run_key: str, status: str = "RUNNING") -> str:
        """Return the id of the key's run.

        Two may be there when several create it at once, or when an answer was lost and the request sent
        again: all agree on the oldest.
        """
        if not self._runs(experiment_id, run_key):
            tags = {RUN_KEY_TAG: run_key, **self._user}
            run = self._client.create_run(experiment_id, tags=tags, run_name=run_key)
            self._client.update_run(run.info.run_id, status=status)
            log.event("mlflow_run_created", run_id=run.info.run_id, run_key=run_key)
        oldest, *others = self._runs(experiment_id, run_key)
        for run_id in others:
            self._client.delete_run(run_id)
        return oldest

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._client.get_experiment_by_name(name)  # somebody was faster
        if experiment is None or experiment.lifecycle_stage != "active":
            raise BadConfig(f"MLflow experiment {name!r} is deleted; restore it, or use another name")
        return str(experiment.experiment_id)

    def _runs(self, experiment_id: str, run_key: str) -> list[str]:
        """Return the ids of the key's runs, oldest first."""
        runs = self._client.search_runs([experiment_id], f"tags.`{RUN_KEY_TAG}` = '{run_key}'")
        return [info.run_id for info in sorted((run.info for run in runs), key=_age)]

    def _models(self) -> list[Any]:
        """Return the models of this run key, newest first; those that were never finished are deleted."""
        found = self._client.search_logged_models(
            [self.experiment_id],
            filter_string=f"tags.`{RUN_KEY_TAG}` = '{self._run_key}'",
            order_by=[{"field_name": "creation_timestamp", "ascending": False}],
        )
        ready = []
        for model in found:
            if str(model.status) == "READY":
                ready.append(model)
            else:
                self._client.delete_logged_model(model.model_id)
        return ready


def connect(tracking_uri: str) -> "MlflowClient":
    """Return a client of MLflow that gives up soon: patience is its user's."""
    for name, value in CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri)


def patiently(call: Callable[[], Result], patience: float) -> Result:
    """Call, and while MLflow does not answer, again with growing pauses for `patience` seconds."""
    deadline = time.monotonic() + patience
    pause = 1.0
    while True:
        try:
            return _translated(call)
        except Temporary as error:
            if time.monotonic() + pause > deadline:
                raise
            log.warning("tracking_retried", reason=str(error), pause_seconds=pause)
        time.sleep(pause)
        pause = min(2 * pause, 15.0)


def _age(info: "RunInfo") -> tuple[int, str]:
    return info.start_time, info.run_id


def _metrics(history: Iterable[Mapping[str, Any]]) -> "Iterable[Metric]":
    from mlflow.entities import Metric

    for entry in history:
        for key in sorted(entry.keys() - {"epoch", "timestamp_ms"}):
            yield Metric(key, entry[key], entry["timestamp_ms"], entry["epoch"])


def _translated(call: Callable[[], Result]) -> Result:
    """Call, with the client's exceptions turned into ours."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import HTTPError, RequestException

    try:
        return call()
    except MlflowException as error:
        if error.error_code in _REFUSED:
            raise BadConfig(f"MLflow refused: {error.message}") from error
        raise Temporary(f"MLflow does not answer: {error.message}") from error
    except HTTPError as error:
        if error.response is not None and 400 <= error.response.status_code < 500:
            raise BadConfig(f"MLflow refused: {error}") from error
        raise Temporary(f"MLflow does not answer: {error}") from error
    except RequestException as error:
        raise Temporary(f"MLflow does not answer: {error}") from error
