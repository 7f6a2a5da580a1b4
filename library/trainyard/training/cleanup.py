"""The clean-up task at the end of a run."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from trainyard.graph import last_tasks
from trainyard.platform import load_platform
from trainyard.training.operator import TrainingPodOperator

# Whether the run succeeds: by the states of its last tasks, since an XCom may be left from before a task was
# cleared.
FINISHED = (
    "{{{{ ti.get_task_states(dag_id=ti.dag_id, task_ids={tasks!r}, run_ids=[ti.run_id]).get(ti.run_id, {{}})"
    ".values() | select('in', ['success', 'skipped']) | list | length == {number} }}}}"
)


def clean_up(dag: DAG) -> TrainingPodOperator:
    """Add a task that deletes the run's checkpoints after all other tasks of `dag`.

    It deletes all of them if the run succeeds, since the model is in MLflow. Otherwise it keeps the newest
    one, from which a failed task resumes after it is cleared.

    It is a teardown: it does not turn a failed run into a success, as another last task with the trigger rule
    `all_done` would, and it does not fail the run. The maintenance deletes what it leaves.
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
        # The run ends, and its alerts are sent, only after this task: it must not take long.
        deadline=timedelta(minutes=10),
        startup_timeout=timedelta(minutes=5),
    )
    last >> task.as_teardown(on_failure_fail_dagrun=False)
    return task
