"""Ask the fraud champion about the newest transactions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.sensors.external_task import ExternalTaskSensor
from airflow.sdk import (
    DAG,
    AssetOrTimeSchedule,
    Context,
    CronTriggerTimetable,
    TaskGroup,
    get_current_context,
    task,
)
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException
from trainyard.assets import DATASETS, champion, incoming_uri
from trainyard.defaults import dag_args
from trainyard.params import data_date_param, model_name_param
from trainyard.platform import load_platform
from trainyard.training.operator import TrainingPodOperator

MODEL = "fraud"
SOURCE = "transactions"
SHORT = timedelta(minutes=5)
# When this DAG is due, data_arrival has ended, unless Airflow was down and begins both at once. Longer would
# only keep a new champion from its predictions: one run is active at a time.
PATIENCE = timedelta(minutes=30)
PLATFORM = load_platform()

DOC = """
Predicts which transactions are fraud, with the champion of the registry.

It runs each Monday after `data_arrival`, for which it then waits; whenever a new `champion` of the model is
promoted (the asset `trainyard://models/fraud/champion`); and when another DAG or a person triggers it.

`wait_for_arrival` waits for half an hour at most. If no run of `data_arrival` has ended by then, as where
real data arrives and it is switched off, the task is skipped and the run takes the newest data that is there.
If `data_arrival` failed, so does this run.

`request` says what to predict: the newest data that has arrived, or that of `data_date`. `data` (validate,
features) runs beside `model` (which version is champion?). `predict` writes
`/data/predictions/fraud/date=<day>/model_version=<version>/`; the same day and version give the same files.

Without a champion there is nothing to ask: the run is skipped from `load_champion` on, which says so.
"""


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

    @task(execution_timeout=SHORT, trigger_rule="none_failed")
    def request(triggering_asset_events: Any = None) -> dict[str, str]:
        """What to predict: a model and a day, from the promotion that triggered the run or its params."""
        from trainyard.assets import newest_arrival, promoted_model

        context = get_current_context()
        params, today = context["params"], context["dag_run"].run_after.date().isoformat()
        model = promoted_model(triggering_asset_events or {}) or params["model_name"]
        date = params["data_date"] or newest_arrival(SOURCE, until=today)
        return {"model": model, "date": date, "source": incoming_uri(SOURCE, date)}

    wanted: Any = request()
    wait_for_arrival >> wanted

    with TaskGroup("load", tooltip="Data and model at the same time") as load:
        with TaskGroup("data"):
            step_params = {"model": MODEL, "date": wanted["date"]}
            validate = TrainingPodOperator(
                task_id="validate",
                step="validate",
                dataset=wanted["source"],
                output_uri=DATASETS,
                step_params=step_params,
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

        @task(execution_timeout=SHORT)
        def load_champion(model: str) -> dict[str, str]:
            """Which version is champion now; the whole run asks that one, whatever is promoted meanwhile."""
            from trainyard.registry.client import CHAMPION, connect, find_alias

            version = find_alias(connect(PLATFORM.training.tracking_uri), model, CHAMPION)
            if version is None:
                raise AirflowSkipException(
                    f"{model} has no champion yet: run fraud_detection_training, or give a version of it the "
                    "alias champion in MLflow"
                )
            # Predictions lie under the name of the trainer's model: another name in the registry must not
            # write over those.
            prefix = "" if model == MODEL else f"{model}-"
            return {"uri": f"models:/{model}/{version.version}", "version": f"{prefix}{version.version}"}

        champion_version: Any = load_champion(wanted["model"])

    predict = TrainingPodOperator(
        task_id="predict",
        step="predict",
        dataset=validate.output["dataset"],
        output_uri=DATASETS,
        step_params={
            **step_params,
            "features_uri": features.output["dataset"],
            "model_uri": champion_version["uri"],
            "model_version": champion_version["version"],
        },
        deadline=timedelta(hours=1),
    )

    @task(execution_timeout=SHORT)
    def summary(prediction: dict[str, Any]) -> str:
        """Say what was predicted, and where it lies."""
        from trainyard.alerts.summary import notify

        found, rows = prediction["class_1"], prediction["rows"]
        return notify(
            f"{MODEL} v{prediction['model_version']} suspects {found} of {rows} transactions "
            f"({found / max(rows, 1):.2%})\npredictions: {prediction['output']}"
        )

    summary(predict.output)
