"""MLflow: one run per run key, however many pods log to it, and each metric step once.

Uses only the client API, so that nothing depends on the process-wide active run.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trainyard_contract import CHAMPION, Tag

from trainyard_trainer import log
from trainyard_trainer.epoch_sender import EpochSender, History
from trainyard_trainer.errors import BadConfig, Temporary
from trainyard_trainer.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunInfo

Result = TypeVar("Result")
# A call fails after two requests of at most 20 s; the Tracker retries for longer.
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
}
# UNAUTHENTICATED is none of them: the kubelet updates the mounted file with the password a minute or two
# after its Secret has changed, and the client reads the file for each request.
_UNAUTHENTICATED = 401
_METRICS_PER_CALL = 1000  # MLflow's own limit


class Tracker:
    """The MLflow run of one run key."""

    def __init__(self, settings: Settings, run_key: str) -> None:
        """Find the run, or create it. Raises Temporary when MLflow stays unavailable."""
        self._patience = settings.tracking_patience
        self._uri = settings.tracking_uri
        self._client = connect(settings.tracking_uri)
        self._run_key = run_key
        self._logged: dict[str, set[int]] = {}  # steps that MLflow has, by metric key
        self._sender = EpochSender(lambda history: _with_own_errors(lambda: self._send(history)))
        tags = {
            Tag.RUN_KEY: run_key,
            Tag.ATTEMPT: str(settings.attempt),
            Tag.DEVICE: settings.device,
            **settings.tags,
        }
        if settings.batch_divisor > 1:
            tags[Tag.BATCH_DIVISOR] = str(settings.batch_divisor)
        self._parent_key = settings.parent_run_key
        # MLflow reads the user of a run only from the tags that it is created with.
        self._user = {key: value for key, value in tags.items() if key == Tag.USER}
        self.experiment_id, self.run_id = self._retried(lambda: self._open(settings))
        self.set_tags(tags | self._retried(self._parent_tag))
        self._set_status("RUNNING")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        from mlflow.entities import RunTag

        entities = [RunTag(key, value) for key, value in tags.items()]
        self._retried(lambda: self._client.log_batch(self.run_id, tags=entities))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log the parameters. Raises BadConfig when the run already has one with another value."""
        from mlflow.entities import Param

        known = self._retried(lambda: self._client.get_run(self.run_id)).data.params
        for key, value in params.items():
            if known.get(key, str(value)) != str(value):
                raise BadConfig(
                    f"MLflow run {self.run_id} of run key {self._run_key!r} has {key}={known[key]}, "
                    f"this step has {key}={value}; use the value of the run, or another --run-key"
                )
        entities = [Param(key, str(value)) for key, value in params.items()]
        self._retried(lambda: self._client.log_batch(self.run_id, params=entities))

    def log_epochs(self, history: History) -> None:
        """Log the epochs of the history that MLflow does not have yet, and wait for it.

        An entry holds `epoch` (the step), `timestamp_ms` (since 1970) and metrics. So neither epochs that are
        trained again after a kill nor lost responses leave a gap or a duplicate.
        """
        self._sender.stop()
        self._retried(lambda: self._send(history))

    def log_epochs_meanwhile(self, history: History) -> None:
        """Log the epochs of the history while the training goes on, which waits for nothing.

        Raises BadConfig when MLflow has refused earlier ones. `log_epochs` at the end logs what is left.
        """
        self._sender.put(history)

    def _send(self, history: History) -> None:
        try:
            self._send_metrics(list(_metrics(history)))
        except BaseException:
            self._logged.clear()  # what MLflow has received is unknown
            raise

    def _send_metrics(self, metrics: list["Metric"]) -> None:
        for key in {metric.key for metric in metrics} - self._logged.keys():
            self._logged[key] = {entry.step for entry in self._client.get_metric_history(self.run_id, key)}
        new = [metric for metric in metrics if metric.step not in self._logged[metric.key]]
        for start in range(0, len(new), _METRICS_PER_CALL):
            part = new[start : start + _METRICS_PER_CALL]
            self._client.log_batch(self.run_id, metrics=part)
            for metric in part:
                self._logged[metric.key].add(metric.step)

    def log_metrics(self, metrics: Mapping[str, float], step: int, model_id: str | None) -> None:
        """Log the metrics of a trained model to the run and to the model; equal values only once."""
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

        self._retried(send)

    def log_artifact(self, file: Path, directory: str) -> None:
        """Upload a file to a directory of the run's artifacts."""
        self._retried(lambda: self._client.log_artifact(self.run_id, str(file), directory))

    def log_model(
        self, name: str, directory: Path, weights: str, *, step: int, params: Mapping[str, Any]
    ) -> str:
        """Log the model in the directory, and return its URI; only once for a SHA-256 of weights."""
        from mlflow.entities import LoggedModelOutput

        def send() -> str:
            for model in self._models():
                if model.tags.get(Tag.WEIGHTS) == weights:
                    return str(model.model_uri)
            model = self._client.create_logged_model(
                self.experiment_id,
                name=name,
                source_run_id=self.run_id,
                tags={Tag.RUN_KEY: self._run_key, Tag.WEIGHTS: weights},
                params={key: str(value) for key, value in params.items()},
            )
            self._client.log_model_artifacts(model.model_id, str(directory))
            self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step)])
            self._client.finalize_logged_model(model.model_id, "READY")
            return str(model.model_uri)

        return self._retried(send)

    def latest_model(self) -> str:
        """Return the URI of the latest model of this run key. Raises BadConfig when there is none."""
        models = self._retried(self._models)
        if not models:
            raise BadConfig(
                f"run key {self._run_key!r} has no model in MLflow; run the step train first, "
                "or set the parameter 'model_uri'"
            )
        return str(models[0].model_uri)

    def champion_version(self, model: str) -> str | None:
        """Return the version of a registered model that is its champion; None without one."""
        from mlflow.exceptions import MlflowException

        def find() -> str | None:
            try:
                return str(self._client.get_model_version_by_alias(model, CHAMPION).version)
            except MlflowException as error:
                # The stores say INVALID_PARAMETER_VALUE for a missing alias, the other for a missing model.
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

        return self._retried(find)

    def download_model(self, model_uri: str, directory: Path) -> Path:
        """Download a model into the directory and return its path."""
        from mlflow.artifacts import download_artifacts

        def fetch() -> str:
            return str(download_artifacts(model_uri, dst_path=str(directory), tracking_uri=self._uri))

        return Path(self._retried(fetch))

    def end(self, *, failed: bool = False) -> None:
        """Set the status of the run at the end of a step; the next step of the run key sets RUNNING again."""
        # Trials that started together may each have created a parent run: by now one of them is left.
        if parent := self._retried(self._parent_tag):
            self.set_tags(parent)
        self._set_status("FAILED" if failed else "FINISHED")

    def _set_status(self, status: str) -> None:
        # set_terminated sets the end time, which a run that continues must not have; update_run does not.
        if status == "RUNNING":
            self._retried(lambda: self._client.update_run(self.run_id, status=status))
        else:
            self._retried(lambda: self._client.set_terminated(self.run_id, status))

    def _retried(self, call: Callable[[], Result]) -> Result:
        return with_retries(call, self._patience)

    def _open(self, settings: Settings) -> tuple[str, str]:
        if settings.mlflow_run_id:
            info = self._client.get_run(settings.mlflow_run_id).info
            return info.experiment_id, info.run_id
        experiment_id = self._experiment(settings.experiment)
        return experiment_id, self._find_or_create(experiment_id, self._run_key)

    def _parent_tag(self) -> dict[str, str]:
        """Return the tag that nests the run under its parent run, which is created if it does not exist."""
        if not self._parent_key:
            return {}
        parent = self._find_or_create(self.experiment_id, self._parent_key, status="FINISHED")
        return {Tag.PARENT_RUN_ID: parent}

    def _find_or_create(self, experiment_id: str, run_key: str, status: str = "RUNNING") -> str:
        """Return the id of the run of a run key.

        There can be two when several processes create it at once, or when a response was lost and the
        request was repeated: the oldest is used, and the others lose the run key. The trainer may not delete
        them.
        """
        if not self._runs(experiment_id, run_key):
            tags = {Tag.RUN_KEY: run_key, **self._user}
            run = self._client.create_run(experiment_id, tags=tags, run_name=run_key)
            self._client.update_run(run.info.run_id, status=status)
            log.event("mlflow_run_created", run_id=run.info.run_id, run_key=run_key)
        oldest, *others = self._runs(experiment_id, run_key)
        for run_id in others:
            self._client.set_tag(run_id, Tag.RUN_KEY, f"{run_key} (twice)")
            self._client.update_run(run_id, status="KILLED")
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
                experiment = self._client.get_experiment_by_name(name)  # another process created it
        if experiment is None or experiment.lifecycle_stage != "active":
            raise BadConfig(f"MLflow experiment {name!r} is deleted; restore it, or use another name")
        return str(experiment.experiment_id)

    def _runs(self, experiment_id: str, run_key: str) -> list[str]:
        """Return the ids of the runs of a run key, oldest first."""
        runs = self._client.search_runs([experiment_id], f"tags.`{Tag.RUN_KEY}` = '{run_key}'")
        return [info.run_id for info in sorted((run.info for run in runs), key=_age)]

    def _models(self) -> list[Any]:
        """Return the models of this run key, latest first. Those of an incomplete upload have failed."""
        found = self._client.search_logged_models(
            [self.experiment_id],
            filter_string=f"tags.`{Tag.RUN_KEY}` = '{self._run_key}'",
            order_by=[{"field_name": "creation_timestamp", "ascending": False}],
        )
        for model in found:
            if str(model.status) == "PENDING":
                self._client.finalize_logged_model(model.model_id, "FAILED")
        return [model for model in found if str(model.status) == "READY"]


def connect(tracking_uri: str) -> "MlflowClient":
    """Return an MLflow client whose calls fail soon; the caller decides how long to retry."""
    for name, value in CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _absent("pandas"):  # MLflow imports it where it is, which takes 0.2 CPU-seconds, and does without
        from mlflow import MlflowClient

    return MlflowClient(tracking_uri)


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """Let imports of a module that is not imported yet fail in the block, as if it were not installed."""
    hide = module not in sys.modules
    if hide:
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hide:
            del sys.modules[module]


def with_retries(call: Callable[[], Result], patience: float) -> Result:
    """Call, and repeat it with growing pauses for `patience` seconds while MLflow is unavailable."""
    deadline = time.monotonic() + patience
    pause = 1.0
    while True:
        try:
            return _with_own_errors(call)
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


def _with_own_errors(call: Callable[[], Result]) -> Result:
    """Call, and turn the exceptions of the MLflow client into the trainer's."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import HTTPError, RequestException

    try:
        return call()
    except MlflowException as error:
        if error.error_code in _REFUSED:
            raise BadConfig(f"MLflow refused: {error.message}") from error
        raise Temporary(f"MLflow does not respond: {error.message}") from error
    except HTTPError as error:
        status = error.response.status_code if error.response is not None else 500
        if 400 <= status < 500 and status != _UNAUTHENTICATED:
            raise BadConfig(f"MLflow refused: {error}") from error
        raise Temporary(f"MLflow does not respond: {error}") from error
    except RequestException as error:
        raise Temporary(f"MLflow does not respond: {error}") from error
