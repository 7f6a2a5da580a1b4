"""The clean-up at the end of a run."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from trainyard.graph import last_tasks
from trainyard.platform import load_platform
from trainyard.training.operator import TrainingPodOperator

# Whether the run ends well, which these tasks decide: by their states, as a result may be from before a task
# was cleared, and then not reached again.
FINISHED = (
    "{{{{ ti.get_task_states(dag_id=ti.dag_id, task_ids={tasks!r}, run_ids=[ti.run_id]).get(ti.run_id, {{}})"
    ".values() | select('in', ['success', 'skipped']) | list | length == {number} }}}}"
)


def clean_up(dag: DAG) -> TrainingPodOperator:
    """Give back what the run took on the checkpoints volume, when all tasks of `dag` so far are done.

    Everything if the run ends well, as its model is in MLflow. Else what nobody would resume from: a failed
    task that is cleared goes on from the newest checkpoint.

    It is a teardown, which neither turns a failed run into a success, as any other last task with the rule
    `all_done` would, nor fails a run by itself: what it leaves is the maintenance's.
    """
    last, checkpoints = last_tasks(dag), load_platform().training.checkpoints.uri
    task = TrainingPodOperator(
        task_id="clean_up",
        dag=dag,
        step="clean",
        dataset=checkpoints,
        output_uri=checkpoints,
        step_params={"finished": FINISHED.format(tasks=[each.task_id for each in last], number=len(last))},
        container_resources={"requests": {"cpu": "100m", "memory": "512Mi"}},
        # The run ends, and people hear of it, only after it: better to leave it to the maintenance.
        deadline=timedelta(minutes=10),
        startup_timeout=timedelta(minutes=5),
    )
    last >> task.as_teardown(on_failure_fail_dagrun=False)
    return task
