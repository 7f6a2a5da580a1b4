"""The served model: downloaded from the registry, loaded as an MLflow pyfunc, and tested before it serves."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainyard_trainer import log
from trainyard_trainer.artifact import INPUT_EXAMPLE, OUTPUT_EXAMPLE
from trainyard_trainer.errors import BadConfig, BadData, Temporary

from trainyard_serving.settings import Settings

# The expected output was computed on another machine, possibly on a GPU: it is equal to about three digits.
RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Model:
    """A loaded model. `example` is a request that it has predicted, None when the artifact has none."""

    name: str
    version: str
    pyfunc: Any
    example: dict[str, Any] | None


class _Float32Model:
    """A PyTorch model without a signature: the network needs float32, and JSON numbers are float64."""

    def __init__(self, pyfunc: Any) -> None:
        self.metadata = pyfunc.metadata
        self._pyfunc = pyfunc

    def predict(self, data: Any) -> Any:
        return self._pyfunc.predict(data.astype("float32") if hasattr(data, "astype") else data)


def load(settings: Settings) -> Model:
    """Download, load and test the model.

    Raises:
        BadConfig: the registry has no such version.
        BadData: the artifact is damaged, or its smoke test fails.
        Temporary: MLflow does not respond.
    """
    directory = _download(settings)
    pyfunc = _load(directory)
    example = _json(directory / INPUT_EXAMPLE)
    if example is None:
        log.warning("no_example", reason=f"the artifact has no {INPUT_EXAMPLE}: served without a smoke test")
    else:
        smoke_test(pyfunc, example, _json(directory / OUTPUT_EXAMPLE))
    log.event("model_loaded", model=settings.model, version=settings.version, smoke=example is not None)
    return Model(settings.model, settings.version, pyfunc, example)


def smoke_test(pyfunc: Any, example: dict[str, Any], expected: Any) -> None:
    """Predict the example, and compare with the expected output, if there is one. Raises BadData."""
    predictions = predict(pyfunc, example)
    if isinstance(expected, dict):
        expected = expected.get("predictions")
    if expected is not None and not _is_close(predictions, expected):
        raise BadData(
            f"the model predicts {_short(predictions)} for its example, expected {_short(expected)}; "
            "train it again, or compare the package versions of the training and the serving image"
        )


def predict(pyfunc: Any, request: dict[str, Any]) -> Any:
    """Predict a request exactly as /invocations does. Raises BadData when that fails."""
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    schema = pyfunc.metadata.get_input_schema()
    try:
        response = scoring_server.invocations(json.dumps(request), "application/json", pyfunc, schema)
    except MlflowException as error:
        text = f"the model cannot predict its own example: {error.message} {cause_of(error)}"
        raise BadData(text.strip()) from error
    return json.loads(response.response)["predictions"]


def cause_of(error: Any) -> str:
    """Return the last line of the stack trace that MLflow has put into its error; empty if there is none."""
    return str(error.json_kwargs.get("stack_trace", "")).strip().rpartition("\n")[2]


def _download(settings: Settings) -> Path:
    import mlflow
    import requests
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(settings.tracking_uri)  # download_artifacts reads the global URI for the registry
    uri = f"models:/{settings.model}/{settings.version}"
    # Kept while the server runs: some model flavors read their files later.
    target = tempfile.mkdtemp(prefix="model-")
    try:
        return Path(download_artifacts(uri, dst_path=target))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise BadConfig(f"{uri} does not exist: {error.message}") from error
        raise Temporary(f"{uri}: MLflow does not respond: {error.message}") from error
    except (requests.RequestException, OSError) as error:
        raise Temporary(f"{uri} cannot be downloaded: {error}") from error


def _load(directory: Path) -> Any:
    import mlflow.pyfunc

    try:
        pyfunc = mlflow.pyfunc.load_model(str(directory))
    except Exception as error:  # the model's own loader can raise any exception
        raise BadData(f"the model cannot be loaded: {type(error).__name__}: {error}") from error
    needs_float32 = pyfunc.metadata.signature is None and "pytorch" in pyfunc.metadata.flavors
    return _Float32Model(pyfunc) if needs_float32 else pyfunc


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise BadData(f"{file.name} in the artifact is not JSON: {error}") from error


def _is_close(actual: Any, expected: Any) -> bool:
    import numpy as np

    try:
        numbers = np.asarray(actual, dtype=float), np.asarray(expected, dtype=float)
    except (ValueError, TypeError):
        return bool(actual == expected)
    if numbers[0].shape != numbers[1].shape:
        return False
    return bool(np.allclose(*numbers, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE, equal_nan=True))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
