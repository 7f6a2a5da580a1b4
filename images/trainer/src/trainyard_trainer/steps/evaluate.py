"""Score a trained model on the test split that it never saw, and the champion on the same rows."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from trainyard_trainer import lake, log, scores
from trainyard_trainer.context import Context, Result
from trainyard_trainer.errors import BadData, Temporary, TrainerError, ran_out_of_memory, storage_error
from trainyard_trainer.join import Features
from trainyard_trainer.steps.predict import ask

_REPORT = "evaluation.json"
_LONGEST_REASON = 300  # characters: the result has to stay small


def run(context: Context) -> Result:
    """Score the model that `model_uri` names, else this run key's; the report goes to MLflow and --output.

    With `champion`, the champion of that registered model is scored, too.
    """
    columns, dataset = lake.read(context.dataset)
    if missing := {"test_inputs", "test_labels"} - columns.keys():
        raise BadData(
            f"dataset {dataset.uri} lacks {', '.join(sorted(missing))}; evaluate needs a processed dataset"
        )
    columns = Features(context.params["features_uri"]).join_splits(columns)
    model_uri = context.params["model_uri"] or context.tracker.newest_model()
    labels = columns["test_labels"]
    probabilities = ask(context, model_uri, columns["test_inputs"])
    metrics: dict[str, Any] = scores.metrics(labels, probabilities)
    matrix = scores.confusion(labels, probabilities.argmax(axis=1), context.model.labels)
    log.event("evaluated", model_uri=model_uri, rows=len(labels), **metrics)
    champion = _champion(context, columns)

    report = lake.local_path(context.output) / _REPORT
    content = {
        **metrics,
        "model_uri": model_uri,
        "dataset": dataset.uri,
        "f1_by_class": scores.f1_by_class(matrix).tolist(),
        "confusion": matrix.tolist(),
        **champion,
    }
    try:
        lake.publish_file(report, json.dumps(content, indent=2).encode())
    except OSError as error:
        raise storage_error("writing the report", report, error) from error
    context.tracker.artifact(report, "evaluation")
    model_id = model_uri.removeprefix("models:/") if model_uri.startswith("models:/m-") else None
    context.tracker.score(metrics, step=0, model_id=model_id)
    return {
        **metrics,
        "score": metrics[context.model.metric],
        "metric": context.model.metric,
        "model_uri": model_uri,
        "data_version": dataset.version,
        "git_commit": context.settings.git_commit,
        "rows": len(labels),
        "output": lake.file_uri(report),
        **champion,
    }


def _champion(context: Context, columns: lake.Columns) -> dict[str, dict[str, Any]]:
    """Score the champion on the test split; return `champion` for the result, nothing where there is none.

    A champion that cannot be scored, because it takes other inputs or is damaged, is no failure: `error`
    says why. The metrics go to the candidate's MLflow run, the champion's own is left alone.
    """
    name = context.params["champion"]
    version = context.tracker.champion(name) if name else None
    if version is None:
        return {}
    try:
        probabilities = ask(context, f"models:/{name}/{version}", columns["test_inputs"])
        metrics: dict[str, Any] = _metrics(columns["test_labels"], probabilities, context.model.labels)
    except Exception as error:
        # Worth another try: by itself, or with more memory.
        if context.preemption.came or isinstance(error, Temporary) or ran_out_of_memory(error):
            raise
        reason = _in_a_line(error)
        log.warning("champion_not_evaluated", champion=name, version=version, reason=reason)
        return {"champion": {"version": version, "error": reason}}
    log.event("champion_evaluated", champion=name, version=version, **metrics)
    context.tracker.score({f"champion_{key}": value for key, value in metrics.items()}, step=0, model_id=None)
    return {"champion": {"version": version, "score": metrics[context.model.metric], **metrics}}


def _metrics(
    labels: scores.Labels, probabilities: npt.NDArray[np.floating], classes: int
) -> dict[str, float]:
    if probabilities.shape != (len(labels), classes):
        raise BadData(
            f"its answers have the shape {probabilities.shape}, not {len(labels)} rows by {classes} classes"
        )
    return scores.metrics(labels, probabilities)


def _in_a_line(error: Exception) -> str:
    """The part of the message that counts: TorchScript puts a traceback before it, torch one behind it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0 if isinstance(error, TrainerError) else -1][:_LONGEST_REASON]
