"""Remove for good what was deleted in MLflow long ago: runs, models, experiments and their artifacts.

It is `mlflow gc`, which asks nobody: a run that somebody deleted goes with all that it logged, though a
registered version was made of it. So what a version of any registered model needs is left out here: the run
and the model that it names, what its source lies in, and the experiments of these. They stay deleted, that is
out of sight, and intact; the log names them.

RETENTION_DAYS says how long ago, DRY_RUN=true only tells what would go. The database is
MLFLOW_BACKEND_STORE_URI; artifacts are removed through the server, MLFLOW_TRACKING_URI, which has the volume
or the keys of the object store.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mlflow.cli import _gc_tracking_resources as collect
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

DAY_MS = 86_400_000
PAGE = 1000


@dataclass
class Needed:
    """What versions need, each with the name of one: runs and models, their experiments, and sources."""

    ids: dict[str, str] = field(default_factory=dict)
    experiments: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def by(self, item_id: str, location: str) -> str:
        """Return the version that needs what has this id and keeps its artifacts there, or ''."""
        root = location.rstrip("/") + "/"
        inside = (who for source, who in self.sources.items() if f"{source}/".startswith(root))
        return self.ids.get(item_id) or next(inside, "")


def find_needed(tracking: Tracking, registry: Registry) -> Needed:
    """Return what the versions of all registered models need."""
    needed = Needed()
    for version in pages(lambda token: registry.search_model_versions(None, PAGE, page_token=token)):
        who = f"{version.name} version {version.version}"
        source = version.source or ""
        needed.sources[source] = who
        # An id is a part of the source, too, which may be the only place that tells it: runs:/ID/model.
        for item_id in {version.run_id, version.model_id, *re.split(r"[:/]+", source)} - {None, ""}:
            needed.ids[item_id] = who
    for item_id, who in list(needed.ids.items()):
        experiment = experiment_of(tracking, item_id)
        if experiment:
            needed.experiments[experiment] = who
    return needed


def experiment_of(tracking: Tracking, item_id: str) -> str:
    """Return the experiment of a run or a logged model, deleted or not; '' when there is none of this id."""
    try:
        if item_id.startswith("m-"):
            return str(tracking.get_logged_model(item_id, allow_deleted=True).experiment_id)
        return (
            str(tracking.get_run(item_id).info.experiment_id) if re.fullmatch("[0-9a-f]{32}", item_id) else ""
        )
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return ""
        raise


def old_runs(tracking: Tracking, age_ms: int) -> Iterator[tuple[str, str]]:
    """Runs that were deleted so long ago, and where their artifacts are."""
    for run_id in tracking._get_deleted_runs(older_than=age_ms):
        yield run_id, tracking.get_run(run_id).info.artifact_uri


def old_models(tracking: Tracking, age_ms: int) -> Iterator[tuple[str, str]]:
    """The same of logged models."""
    for model_id in tracking._get_deleted_logged_models(older_than=age_ms):
        yield model_id, tracking.get_logged_model(model_id, allow_deleted=True).artifact_location


def old_experiments(tracking: Tracking, age_ms: int) -> Iterator[tuple[str, str]]:
    """The same of experiments."""
    before = f"last_update_time < {int(time.time() * 1000) - age_ms}"

    def search(token: str | None) -> Any:
        return tracking.search_experiments(ViewType.DELETED_ONLY, PAGE, before, page_token=token)

    for experiment in pages(search):
        yield experiment.experiment_id, experiment.artifact_location


def models_of(tracking: Tracking, experiments: list[str]) -> Iterator[str]:
    """Delete the models of these experiments, and return their ids.

    Without this their records would go with the experiment, and nobody could find their artifacts any more.
    """
    if experiments:
        for model in list(pages(lambda token: tracking.search_logged_models(experiments, page_token=token))):
            tracking.delete_logged_model(model.model_id)
            yield model.model_id


def pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """Everything that a search finds, page after page."""
    token = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


def spare(kind: str, found: Iterable[tuple[str, str]], needed: Callable[[str, str], str]) -> list[str]:
    """Return the ids that nobody needs; tell of the others."""
    free = []
    for item_id, location in found:
        if who := needed(item_id, location):
            print(f"kept: {kind} {item_id} is deleted, but {who} needs it", flush=True)
        else:
            free.append(item_id)
    print(f"{kind}s: {len(free)} to remove", *free, flush=True)
    return free


def main() -> None:
    """Remove what is old enough and not needed."""
    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
    age_ms, dry_run = int(float(os.environ["RETENTION_DAYS"]) * DAY_MS), os.environ.get("DRY_RUN") == "true"
    # Where artifacts lie is the server's to know; a store only needs some root to make experiments in.
    tracking, registry = Tracking(uri, "mlflow-artifacts:/"), Registry(uri)
    needed = find_needed(tracking, registry)
    runs = spare("run", old_runs(tracking, age_ms), needed.by)
    models = spare("model", old_models(tracking, age_ms), needed.by)
    experiments = spare(
        "experiment",
        old_experiments(tracking, age_ms),
        lambda item_id, location: needed.experiments.get(item_id) or needed.by("", location),
    )
    if dry_run:
        print("nothing is removed: it was to be tried only", flush=True)
        return
    models += models_of(tracking, experiments)
    collect(
        backend_store=tracking,
        run_ids=runs,
        experiment_ids=experiments,
        logged_model_ids=models,
        older_than=None,  # they are old enough, and a list of ids means these and no others
        time_delta=0,
        skip_experiments=not experiments,  # to it, an empty list of these means all
        skip_logged_models=not models,
        ignore_not_found=True,
    )


if __name__ == "__main__":
    main()
