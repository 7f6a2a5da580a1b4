"""Ask the fraud champion about the newest transactions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.sensors.external_task import ExternalTaskSensor
from airflow.sdk import DAG, AssetOrTimeSchedule, Context, CronTriggerTimetable, TaskGroup
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException
from trainyard.operators import (
    TrainingPodOperator,
    champion,
    champion_version,
    dag_args,
    data_date_param,
    inference_request,
    load_platform,
    model_name_param,
    report,
)

MODEL = "fraud"
SOURCE = "transactions"
# When this DAG is due, data_arrival has ended, unless Airflow was down and begins both at once. Longer would
# only keep a new champion from its predictions: one run is active at a time.
PATIENCE = timedelta(minutes=30)
DATASETS = load_platform().training.datasets.uri

DOC = """
Predicts which transactions are fraud, with the champion of the registry.

It runs each Monday after `data_arrival`, for which it then waits; whenever a new `champion` of the model is
promoted (the asset `trainyard://models/fraud/champion`); and when another DAG or a person triggers it.

`wait_for_arrival` waits for half an hour at most. If no run of `data_arrival` has ended by then, as where
real data arrives and it is switched off, the task is skipped and the run takes the newest data that is there.
If `data_arrival` failed, so does this run.

`request` says what to predict: the newest data that has arrived, or that of `data_date`. `data` (validate,
features) runs beside `model` (which version is champion?). `predict` writes
`predictions/fraud/date=<day>/model_version=<version>/` on the datasets volume; the same day and version give
the same files.

Without a champion there is nothing to ask: the run is skipped from `load_champion` on, which says so.
"""

SUMMARY = """{% set found = ti.xcom_pull(task_ids='predict') -%}
MODEL v{{ found.model_version }} suspects {{ found.class_1 }} of {{ found.rows }} transactions \
({{ '{:.2%}'.format(found.class_1 / [found.rows, 1] | max) }})
predictions: {{ found.output }}""".replace("MODEL", MODEL)


def only_on_schedule(context: Any) -> None:
    """Skip the task in runs that were triggered: those have no run of data_arrival to wait for."""
    if context["dag_run"].run_type != "scheduled":
        raise AirflowSkipException("this run was triggered; it takes the data that is there")


class ArrivalSensor(ExternalTaskSensor):
    """Waits for data_arrival; is skipped when that does not come.

    Not by `soft_fail`, which would skip it as well when data_arrival, or the waiting itself, failed.
    """

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """End the task after its time in the triggerer."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSensorTimeout as timeout:
            raise AirflowSkipException(
                f"no run of {self.external_dag_id} ended in {PATIENCE}; this run takes the data that is there"
            ) from timeout


with DAG(
    "batch_inference",
    description="Card fraud: predict the newest transactions with the champion",
    doc_md=DOC,
    tags=["inference", "fraud"],
    params={"model_name": model_name_param(MODEL), "data_date": data_date_param()},
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("0 4 * * 1", timezone="UTC"), assets=champion(MODEL)
    ),
    **dag_args(dagrun_timeout=timedelta(hours=6)),
) as dag:
    wait_for_arrival = ArrivalSensor(
        task_id="wait_for_arrival",
        external_dag_id="data_arrival",
        execution_delta=timedelta(hours=3),  # it is due at one, this DAG at four
        allowed_states=["success"],
        failed_states=["failed"],
        deferrable=True,
        poke_interval=60,
        timeout=PATIENCE.total_seconds(),
        execution_timeout=PATIENCE,
        pre_execute=only_on_schedule,
    )

    wanted = inference_request(SOURCE, task_id="request", trigger_rule="none_failed")
    wait_for_arrival >> wanted

    with TaskGroup("load", tooltip="Data and model at the same time") as load:
        with TaskGroup("data"):
            step_params = {"model": MODEL, "date": wanted["date"]}
            validate = TrainingPodOperator(
                task_id="validate",
                step="validate",
                dataset=wanted["source"],
                output_uri=DATASETS,
                step_params={**step_params, "split": "none"},  # nothing is trained or tested
                deadline=timedelta(minutes=30),
            )
            features = TrainingPodOperator(
                task_id="features",
                step="features",
                dataset=validate.output["dataset"],
                output_uri=DATASETS,
                step_params=step_params,
                deadline=timedelta(minutes=30),
            )

        # The whole run uses this version, even if another one is promoted meanwhile.
        found = champion_version(
            wanted["model"],
            trained_as=MODEL,
            trained_by="fraud_detection_training",
            task_id="load_champion",
        )

    predict = TrainingPodOperator(
        task_id="predict",
        step="predict",
        dataset=validate.output["dataset"],
        output_uri=DATASETS,
        step_params={
            **step_params,
            "features_uri": features.output["dataset"],
            "model_uri": found["uri"],
            "model_version": found["version"],
        },
        deadline=timedelta(hours=1),
    )

    predict >> report(SUMMARY, task_id="summary")
