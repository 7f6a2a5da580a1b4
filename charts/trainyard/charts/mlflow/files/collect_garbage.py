"""Remove permanently what was deleted in MLflow some time ago: runs, models, experiments and their artifacts.

This is `mlflow gc` with one more check. `mlflow gc` removes a deleted run with its artifacts even if a
registered model version uses them. Here everything that a version of any registered model needs is kept: its
run, its logged model, the owner of its source, and their experiments. They stay deleted, that is hidden, and
complete; the log names them.

RETENTION_DAYS sets the age; with DRY_RUN=true nothing is removed, only reported. The database is
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
    """What registered versions need, each with a version: ids of runs and models, experiments, sources."""

    ids: dict[str, str] = field(default_factory=dict)
    experiments: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def by(self, item_id: str, location: str) -> str:
        """Return a version that needs the item of this id and artifact location, or ''."""
        root = location.rstrip("/") + "/"
        inside = (version for source, version in self.sources.items() if f"{source}/".startswith(root))
        return self.ids.get(item_id) or next(inside, "")


def find_needed(tracking: Tracking, registry: Registry) -> Needed:
    """Return what the versions of all registered models need."""
    needed = Needed()
    for version in pages(lambda token: registry.search_model_versions(None, PAGE, page_token=token)):
        label = f"{version.name} version {version.version}"
        source = version.source or ""
        needed.sources[source] = label
        # The source can be the only place with the id: runs:/ID/model.
        for item_id in {version.run_id, version.model_id, *re.split(r"[:/]+", source)} - {None, ""}:
            needed.ids[item_id] = label
    for item_id, label in list(needed.ids.items()):
        experiment = experiment_of(tracking, item_id)
        if experiment:
            needed.experiments[experiment] = label
    return needed


def experiment_of(tracking: Tracking, item_id: str) -> str:
    """Return the experiment of a run or logged model, also of a deleted one; '' when the id is unknown."""
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
    """Yield the runs that were deleted at least so long ago, with their artifact locations."""
    for run_id in tracking._get_deleted_runs(older_than=age_ms):
        yield run_id, tracking.get_run(run_id).info.artifact_uri


def old_models(tracking: Tracking, age_ms: int) -> Iterator[tuple[str, str]]:
    """Yield the logged models, likewise."""
    for model_id in tracking._get_deleted_logged_models(older_than=age_ms):
        yield model_id, tracking.get_logged_model(model_id, allow_deleted=True).artifact_location


def old_experiments(tracking: Tracking, age_ms: int) -> Iterator[tuple[str, str]]:
    """Yield the experiments, likewise."""
    before = f"last_update_time < {int(time.time() * 1000) - age_ms}"

    def search(token: str | None) -> Any:
        return tracking.search_experiments(ViewType.DELETED_ONLY, PAGE, before, page_token=token)

    for experiment in pages(search):
        yield experiment.experiment_id, experiment.artifact_location


def models_of(tracking: Tracking, experiments: list[str]) -> Iterator[str]:
    """Delete the models of these experiments, and yield their ids.

    Otherwise their records would be removed with the experiment, and their artifacts could not be found.
    """
    if experiments:
        for model in list(pages(lambda token: tracking.search_logged_models(experiments, page_token=token))):
            tracking.delete_logged_model(model.model_id)
            yield model.model_id


def pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield the items of all pages of a search."""
    token = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


def removable(kind: str, found: Iterable[tuple[str, str]], needed: Callable[[str, str], str]) -> list[str]:
    """Return the ids that no version needs; report the others."""
    free = []
    for item_id, location in found:
        if version := needed(item_id, location):
            print(f"kept: {kind} {item_id} is deleted, but {version} needs it", flush=True)
        else:
            free.append(item_id)
    print(f"{kind}s: {len(free)} to remove", *free, flush=True)
    return free


def main() -> None:
    """Remove what is old enough and not needed."""
    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
    age_ms, dry_run = int(float(os.environ["RETENTION_DAYS"]) * DAY_MS), os.environ.get("DRY_RUN") == "true"
    # The server knows the artifact locations; the store needs a root only to create experiments.
    tracking, registry = Tracking(uri, "mlflow-artifacts:/"), Registry(uri)
    needed = find_needed(tracking, registry)
    runs = removable("run", old_runs(tracking, age_ms), needed.by)
    models = removable("model", old_models(tracking, age_ms), needed.by)
    experiments = removable(
        "experiment",
        old_experiments(tracking, age_ms),
        lambda item_id, location: needed.experiments.get(item_id) or needed.by("", location),
    )
    if dry_run:
        print("dry run: nothing was removed", flush=True)
        return
    models += models_of(tracking, experiments)
    collect(
        backend_store=tracking,
        run_ids=runs,
        experiment_ids=experiments,
        logged_model_ids=models,
        older_than=None,  # the ids are old enough already; with ids given, nothing else is removed
        time_delta=0,
        skip_experiments=not experiments,  # an empty list would mean all
        skip_logged_models=not models,
        ignore_not_found=True,
    )


if __name__ == "__main__":
    main()
