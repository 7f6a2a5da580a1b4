"""The public API: everything that a DAG file imports. All other modules of the library are internal."""

from trainyard.assets import (
    CHAMPIONS,
    CONNECTION,
    DATASETS,
    DATE,
    announce_champion,
    champion,
    incoming,
    incoming_marker,
    incoming_uri,
)
from trainyard.cron_job.operator import RunCronJobOperator
from trainyard.defaults import dag_args, default_args
from trainyard.factory.pipeline import gate, notify, promote, register
from trainyard.params import (
    data_date_param,
    epochs_param,
    in_chosen_pool,
    model_name_param,
    pool_param,
    seed_param,
)
from trainyard.platform import load_platform
from trainyard.registry.approval import approval_task
from trainyard.serving.operator import DeployModelOperator
from trainyard.training.cleanup import CHECKPOINTS, clean_up
from trainyard.training.operator import TrainingPodOperator

__all__ = [
    "CHAMPIONS",
    "CHECKPOINTS",
    "CONNECTION",
    "DATASETS",
    "DATE",
    "DeployModelOperator",
    "RunCronJobOperator",
    "TrainingPodOperator",
    "announce_champion",
    "approval_task",
    "champion",
    "clean_up",
    "dag_args",
    "data_date_param",
    "default_args",
    "epochs_param",
    "gate",
    "in_chosen_pool",
    "incoming",
    "incoming_marker",
    "incoming_uri",
    "load_platform",
    "model_name_param",
    "notify",
    "pool_param",
    "promote",
    "register",
    "seed_param",
]
