"""The served model: fetched from the registry, loaded as MLflow's pyfunc, and proven before it serves."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainyard_trainer import log
from trainyard_trainer.errors import BadConfig, BadData, Temporary

from trainyard_serving.settings import Settings

EXAMPLE = "serving_input_example.json"
ANSWER = "serving_output_example.json"
# The answer was computed elsewhere, perhaps on a GPU: the same to about three digits.
RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Model:
    """A model that answers. `example` is a request which it is known to answer, None if it came without."""

    name: str
    version: str
    pyfunc: Any
    example: dict[str, Any] | None


class _Untyped:
    """A PyTorch model without a signature: the network wants float32, and JSON makes float64."""

    def __init__(self, pyfunc: Any) -> None:
        self.metadata = pyfunc.metadata
        self._pyfunc = pyfunc

    def predict(self, data: Any) -> Any:
        return self._pyfunc.predict(data.astype("float32") if hasattr(data, "astype") else data)


def load(settings: Settings) -> Model:
    """Fetch, load and try the model.

    Raises:
        BadConfig: the registry has no such version.
        BadData: the artifact is damaged, or does not answer its own example as it did when it was made.
        Temporary: MLflow does not answer.
    """
    directory = _fetch(settings)
    pyfunc = _load(directory)
    example = _json(directory / EXAMPLE)
    if example is None:
        log.warning("no_example", reason=f"the artifact has no {EXAMPLE}: served without a smoke prediction")
    else:
        _check(predict(pyfunc, example), _json(directory / ANSWER))
    log.event("model_loaded", model=settings.model, version=settings.version, smoke=example is not None)
    return Model(settings.model, settings.version, pyfunc, example)


def predict(pyfunc: Any, request: dict[str, Any]) -> Any:
    """Answer a request exactly as /invocations does. Raises BadData when it cannot."""
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    schema = pyfunc.metadata.get_input_schema()
    try:
        answer = scoring_server.invocations(json.dumps(request), "application/json", pyfunc, schema)
    except MlflowException as error:
        cause = str(error.json_kwargs.get("stack_trace", "")).strip().rpartition("\n")[2]
        raise BadData(f"the model cannot answer its own example: {error.message} {cause}".strip()) from error
    return json.loads(answer.response)["predictions"]


def _fetch(settings: Settings) -> Path:
    import mlflow
    import requests
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(settings.tracking_uri)  # the registry is asked where this says
    uri = f"models:/{settings.model}/{settings.version}"
    # Not removed while it serves: some kinds of models read their files later.
    target = tempfile.mkdtemp(prefix="model-")
    try:
        return Path(download_artifacts(uri, dst_path=target))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise BadConfig(f"{uri} cannot be had: {error.message}") from error
        raise Temporary(f"{uri}: MLflow does not answer: {error.message}") from error
    except (requests.RequestException, OSError) as error:
        raise Temporary(f"{uri} cannot be fetched: {error}") from error


def _load(directory: Path) -> Any:
    import mlflow.pyfunc

    try:
        pyfunc = mlflow.pyfunc.load_model(str(directory))
    except Exception as error:  # whatever the model's own loader raises
        raise BadData(f"the model cannot be loaded: {type(error).__name__}: {error}") from error
    untyped = pyfunc.metadata.signature is None and "pytorch" in pyfunc.metadata.flavors
    return _Untyped(pyfunc) if untyped else pyfunc


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise BadData(f"{file.name} in the artifact is not JSON: {error}") from error


def _check(actual: Any, expected: Any) -> None:
    """Compare the answer with the one that was kept; without one, having answered is enough."""
    if isinstance(expected, dict):
        expected = expected.get("predictions")
    if expected is not None and not _alike(actual, expected):
        raise BadData(
            f"the model answers its example with {_short(actual)}, but when it was made with "
            f"{_short(expected)}; train it again, or look what differs between the images"
        )


def _alike(actual: Any, expected: Any) -> bool:
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
