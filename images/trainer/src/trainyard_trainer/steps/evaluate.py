"""Score a trained model on the test split, which training does not use, and the champion on the same rows."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from trainyard_trainer import lake, log, scores, storage
from trainyard_trainer.context import Context, Result
from trainyard_trainer.errors import BadData, Temporary, TrainerError, ran_out_of_memory, storage_error
from trainyard_trainer.feature_table import FeatureTable
from trainyard_trainer.steps.predict import infer

_REPORT = "evaluation.json"
_MAX_REASON = 300  # characters: the result must stay small


def run(context: Context) -> Result:
    """Score the model of `model_uri`, by default the latest of this run key; report to MLflow and --output.

    With `champion`, the champion of that registered model is scored as well.
    """
    columns, dataset = lake.read(context.dataset)
    if missing := {"test_inputs", "test_labels"} - columns.keys():
        raise BadData(
            f"dataset {dataset.uri} lacks {', '.join(sorted(missing))}; evaluate needs a processed dataset"
        )
    columns = FeatureTable(context.params["features_uri"]).join_splits(columns)
    model_uri = context.params["model_uri"] or context.tracker.latest_model()
    labels = columns["test_labels"]
    probabilities = infer(context, model_uri, columns["test_inputs"])
    metrics: dict[str, Any] = scores.metrics(labels, probabilities)
    matrix = scores.confusion(labels, probabilities.argmax(axis=1), context.model.classes)
    log.event("evaluated", model_uri=model_uri, rows=len(labels), **metrics)
    champion = _score_champion(context, columns)

    content = {
        **metrics,
        "model_uri": model_uri,
        "dataset": dataset.uri,
        "f1_by_class": scores.f1_by_class(matrix).tolist(),
        "confusion": matrix.tolist(),
        **champion,
    }
    with storage.working_copy(context.output) as directory:
        report = directory / _REPORT
        try:
            storage.publish_file(report, json.dumps(content, indent=2).encode())
        except OSError as error:
            raise storage_error("writing the report", report, error) from error
        context.tracker.log_artifact(report, "evaluation")
    model_id = model_uri.removeprefix("models:/") if model_uri.startswith("models:/m-") else None
    context.tracker.log_metrics(metrics, step=0, model_id=model_id)
    return {
        **metrics,
        "score": metrics[context.model.metric],
        "metric": context.model.metric,
        "model_uri": model_uri,
        "data_version": dataset.version,
        "git_commit": context.settings.git_commit,
        "rows": len(labels),
        "output": storage.directory(context.output).uri_of(_REPORT),
        **champion,
    }


def _score_champion(context: Context, columns: lake.Columns) -> dict[str, dict[str, Any]]:
    """Score the champion on the test split; return the key `champion` of the result, or {} without one.

    A champion that cannot be scored, because it needs other inputs or is damaged, does not fail the step:
    `error` says why. The metrics are logged to the candidate's MLflow run, not to the champion's.
    """
    name = context.params["champion"]
    version = context.tracker.champion_version(name) if name else None
    if version is None:
        return {}
    try:
        probabilities = infer(context, f"models:/{name}/{version}", columns["test_inputs"])
        metrics: dict[str, Any] = _metrics(columns["test_labels"], probabilities, context.model.classes)
    except Exception as error:
        # A retry can succeed, by itself or with more memory.
        if context.preemption.received or isinstance(error, Temporary) or ran_out_of_memory(error):
            raise
        reason = _one_line(error)
        log.warning("champion_not_evaluated", champion=name, version=version, reason=reason)
        return {"champion": {"version": version, "error": reason}}
    log.event("champion_evaluated", champion=name, version=version, **metrics)
    context.tracker.log_metrics(
        {f"champion_{key}": value for key, value in metrics.items()}, step=0, model_id=None
    )
    return {"champion": {"version": version, "score": metrics[context.model.metric], **metrics}}


def _metrics(
    labels: scores.Labels, probabilities: npt.NDArray[np.floating], classes: int
) -> dict[str, float]:
    expected = (len(labels), classes, *labels.shape[1:])
    if probabilities.shape != expected:
        words = zip(expected, ("rows", "classes", "places"), strict=False)
        wanted = " by ".join(f"{number} {word}" for number, word in words)
        raise BadData(f"its predictions have the shape {probabilities.shape}, not {wanted}")
    return scores.metrics(labels, probabilities)


def _one_line(error: Exception) -> str:
    """Return the line with the cause: the last one, or the first one of a TrainerError."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0 if isinstance(error, TrainerError) else -1][:_MAX_REASON]
