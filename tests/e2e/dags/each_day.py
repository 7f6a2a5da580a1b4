"""Steps for each of two days, as a mapped task group."""

from datetime import timedelta

from airflow.sdk import DAG, task_group
from trainyard.operators import TrainingPodOperator
from trainyard.platform import load_platform

URI = load_platform().training.datasets.uri

with DAG("each_day", schedule=None):

    @task_group
    def day(date):
        common = {"output_uri": URI, "step_params": {"date": date}, "deadline": timedelta(minutes=15)}
        validate = TrainingPodOperator(
            task_id="validate", step="validate", dataset="sklearn://digits", **common
        )
        TrainingPodOperator(
            task_id="preprocess", step="preprocess", dataset=validate.output["dataset"], **common
        )

    day.expand(date=["2026-01-01", "2026-01-02"])
