"""Runs the DAGs beside this file with Airflow's real triggerer, on a SQLite database of its own.

`python run.py CONF` makes a run of `control` with that configuration, does what the scheduler does until
every task that no worker has to run is done, and writes what the database has then to found.json.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from dag_store import store_dags

USER = "ada"
SECONDS = 240
FOR_WORKERS = {"each", "fails_for_good"}


def main(conf: dict[str, Any]) -> None:
    from airflow.utils.db import initdb

    initdb()
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    triggerer = start_triggerer()
    try:
        dags = sync()
        run(triggerer, dags["control"], "manual", conf)
        run(triggerer, dags["mapped_group"], "manual", {})
        deliver(triggerer, dags["on_delivery"])
        test_without_triggerer()
        Path(os.environ["AIRFLOW_HOME"], "found.json").write_text(json.dumps(found(), default=str))
    finally:
        triggerer.kill(escalation_delay=10, force=True)


def start_triggerer() -> Any:
    """The triggerer's main process is this one: SQLite takes one writer at a time, so it takes turns."""
    from airflow._shared.observability.metrics import stats
    from airflow.jobs.job import Job
    from airflow.jobs.triggerer_job_runner import TriggererJobRunner, TriggerRunnerSupervisor
    from airflow.observability.metrics import stats_utils

    stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
    job = Job(heartrate=5)
    TriggererJobRunner(job)
    job.prepare_for_execution()
    return TriggerRunnerSupervisor.start(job=job, capacity=100)


def test_without_triggerer() -> None:
    """Run a DAG as its author does, in this process."""
    from airflow.dag_processing.dagbag import DagBag

    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "client"
    DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]).dags["without_triggerer"].test()


def sync() -> dict[str, Any]:
    """Store the DAGs; return them as the scheduler reads them."""
    from airflow.serialization.serialized_objects import DagSerialization

    dags = store_dags()
    return {name: DagSerialization.from_dict(DagSerialization.to_dict(dag)) for name, dag in dags.items()}


def run(triggerer: Any, dag: Any, run_type: str, conf: dict[str, Any], asset_events: Any = ()) -> None:
    """Make a run and schedule its tasks until those that a trigger ends are done."""
    from airflow._shared.timezones import timezone
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    with create_session() as session:
        dag_run = dag.create_dagrun(
            run_id=f"{run_type}__1",
            run_after=timezone.utcnow(),
            conf=conf,
            run_type=DagRunType(run_type),
            triggered_by=DagRunTriggeredByType.REST_API,
            triggering_user_name=USER,
            state=DagRunState.RUNNING,
            session=session,
        )
        dag_run.consumed_asset_events.extend(session.merge(event) for event in asset_events)
    until = time.monotonic() + SECONDS
    while unfinished := schedule(dag):
        assert time.monotonic() < until and triggerer.is_alive(), unfinished
        triggerer.run_once()


def schedule(dag: Any) -> list[str]:
    """One pass of the scheduler; the tasks that are not done yet."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        dag_run = session.scalars(select(DagRun).where(DagRun.dag_id == dag.dag_id)).one()
        dag_run.dag = dag
        ready, _ = dag_run.update_state(session=session)
        dag_run.schedule_tis(ready, session=session)
        session.flush()
        return [
            f"{ti.task_id}: {ti.state}"
            for ti in dag_run.get_task_instances(session=session)
            if ti.state not in ("success", "failed", "skipped", "upstream_failed")
            and not (ti.task_id in FOR_WORKERS and ti.state == "scheduled")
        ]


def deliver(triggerer: Any, dag: Any) -> None:
    """Run the DAG that waits for the delivery, as the scheduler does for the event."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        events = [
            event for event in session.scalars(select(AssetEvent)) if event.asset.uri == "s3://incoming/x"
        ]
        for event in events:  # what a person may send, of which the triggerer must not die
            event.extra = {**event.extra, "huge": 10**30}
    run(triggerer, dag, "asset_triggered", {}, events)


def found() -> dict[str, Any]:
    """What is in the database now."""
    from airflow.models.asset import AssetDagRunQueue, AssetEvent
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        tasks = session.scalars(select(TaskInstance)).all()
        return {
            "states": [
                [ti.dag_id, ti.task_id, ti.map_index, ti.state, ti.try_number, ti.next_method] for ti in tasks
            ],
            "xcoms": [
                [each.dag_id, each.task_id, each.key, XComModel.deserialize_value(each), each.map_index]
                for each in session.scalars(select(XComModel))
            ],
            "events": [
                {
                    "uri": event.asset.uri,
                    "task": event.source_task_id,
                    "extra": event.extra,
                    "aliases": [alias.name for alias in event.source_aliases],
                }
                for event in session.scalars(select(AssetEvent))
            ],
            "queued": [row.target_dag_id for row in session.scalars(select(AssetDagRunQueue))],
        }


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
