"""Give back what nobody needs any more: old checkpoints, Airflow's history, MLflow's garbage."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param
from trainyard.operators import RunCronJobOperator, TrainingPodOperator, dag_args, load_platform

PLATFORM = load_platform()

DOC = """
Gives back what nobody needs any more, each week. Its three tasks have nothing to do with each other.

- `checkpoints`: what training runs left on the checkpoints volume, unchanged for `older_than_days`. Runs
  clean up after themselves; this is for those that failed, or never got so far.
- `airflow_database`: runs, their tasks and XComs, and files of XComs, from the chart's
  `airflow.databaseCleanup.retentionDays` ago or `airflow_older_than_days`. The newest scheduled run of each
  DAG stays.
- `mlflow_garbage`: runs, models and experiments that were *deleted* in MLflow, with their artifacts, after
  `mlflow.garbageCollection.retentionDays` or `mlflow_older_than_days`. What is not deleted stays for ever.

Whatever a version of any registered model needs stays: the checkpoints of its run, and, although deleted, its
MLflow run, model and experiment. Data sets and predictions are never touched. While MLflow does not answer,
no checkpoint is removed.

Each team has a DAG of its own for its checkpoints, `maintenance-TEAM`.

To see what would go: `./scripts/run maintenance --conf '{"dry_run": true}'`; the tasks' logs name everything.
"""


def days(least: int, what: str) -> Param:
    """A parameter in days, empty for what the chart's values say."""
    return Param(None, type=["null", "integer"], minimum=least, maximum=36_500, description=what)


OF_CHECKPOINTS = {
    "older_than_days": Param(
        30, type="integer", minimum=1, maximum=36_500, description="age of checkpoints that are removed"
    ),
    "dry_run": Param(False, type="boolean", description="only say what would be removed"),
}
PARAMS = {
    **OF_CHECKPOINTS,
    "airflow_older_than_days": days(1, "age of the history that is removed; empty for the chart's value"),
    "mlflow_older_than_days": days(
        0, "days since something was deleted in MLflow, 0 for all of it; empty for the chart's value"
    ),
}
# By the names that the platform has for the CronJobs.
TASKS = {
    "airflowDatabase": ("airflow_database", "airflow_older_than_days"),
    "mlflowGarbage": ("mlflow_garbage", "mlflow_older_than_days"),
}


def remove_checkpoints() -> None:
    """Add the task that removes old checkpoints: of the team whose DAG it is, or of those without one."""
    TrainingPodOperator(
        task_id="checkpoints",
        step="clean",
        dataset=PLATFORM.training.checkpoints.uri,
        output_uri=PLATFORM.training.checkpoints.uri,
        step_params={"older_than_days": "{{ params.older_than_days }}", "dry_run": "{{ params.dry_run }}"},
    )


with DAG(
    "maintenance",
    description="Remove old checkpoints, Airflow's history and MLflow's garbage",
    doc_md=DOC,
    tags=["maintenance"],
    params=PARAMS,
    schedule="0 3 * * 0",
    **dag_args(),
) as dag:
    remove_checkpoints()
    for name, cron_job in (PLATFORM.maintenance.cron_jobs if PLATFORM.maintenance else {}).items():
        task_id, age = TASKS[name]
        env: dict[str, Any] = {
            "RETENTION_DAYS": f"{{{{ params.{age} }}}}",
            "DRY_RUN": "{{ 'true' if params.dry_run else 'false' }}",
        }
        RunCronJobOperator(
            task_id=task_id,
            namespace=PLATFORM.maintenance.namespace,
            cron_job=cron_job,
            env=env,
            deadline=timedelta(hours=3),
        )

# In an object store, the checkpoints of all teams are in one place.
for team in PLATFORM.teams.values() if PLATFORM.training.checkpoints.is_mounted else ():
    with DAG(
        team.maintenance,
        description=f"Remove old checkpoints of team {team.name}",
        doc_md="Removes what training runs left on the team's volume, as `maintenance` does elsewhere.",
        tags=["maintenance"],
        params=OF_CHECKPOINTS,
        schedule="0 3 * * 0",
        **dag_args(),
    ):
        remove_checkpoints()
