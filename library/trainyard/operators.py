"""The public API: everything that a DAG file imports. All other modules of the library are internal."""

from trainyard.alerts.tasks import notify, report
from trainyard.assets import (
    CHAMPIONS,
    CONNECTION,
    DATE,
    announce_champion,
    champion,
    incoming,
    incoming_marker,
    incoming_uri,
)
from trainyard.cron_job.operator import RunCronJobOperator
from trainyard.defaults import dag_args, default_args
from trainyard.flow import arrived, choose, day_of_data, inference_request, only_if
from trainyard.object_store.operator import WaitForObjectOperator
from trainyard.params import (
    data_date_param,
    epochs_param,
    in_chosen_pool,
    model_name_param,
    nodes_param,
    pool_param,
    seed_param,
    space_param,
    split_param,
)
from trainyard.platform import load_platform
from trainyard.registry.approval import approval_task
from trainyard.registry.tasks import champion_version, gate, make_champion, passed, promote, register
from trainyard.serving.operator import DeployModelOperator
from trainyard.stock_operators.arguments import gpu_arguments
from trainyard.training.cleanup import clean_up
from trainyard.training.operator import TrainingPodOperator
from trainyard.tuning.search_space import STRATEGIES
from trainyard.tuning.sweep import TRIAL_DEADLINE, train_trials
from trainyard.tuning.tasks import best_of_rounds, candidates, first_round, select_best, survivors

__all__ = [
    "CHAMPIONS",
    "CONNECTION",
    "DATE",
    "STRATEGIES",
    "TRIAL_DEADLINE",
    "DeployModelOperator",
    "RunCronJobOperator",
    "TrainingPodOperator",
    "WaitForObjectOperator",
    "announce_champion",
    "approval_task",
    "arrived",
    "best_of_rounds",
    "candidates",
    "champion",
    "champion_version",
    "choose",
    "clean_up",
    "dag_args",
    "data_date_param",
    "day_of_data",
    "default_args",
    "epochs_param",
    "first_round",
    "gate",
    "gpu_arguments",
    "in_chosen_pool",
    "incoming",
    "incoming_marker",
    "incoming_uri",
    "inference_request",
    "load_platform",
    "make_champion",
    "model_name_param",
    "nodes_param",
    "notify",
    "only_if",
    "passed",
    "pool_param",
    "promote",
    "register",
    "report",
    "seed_param",
    "select_best",
    "space_param",
    "split_param",
    "survivors",
    "train_trials",
]
