"""The trainer contract: what the DAG library and the training image both know.

Each name of the contract is written here once, and both images carry this file. It uses the standard library
only, so that either side can import it. An image in another language has to use the same words.
"""

from __future__ import annotations

import re
from enum import IntEnum

# ---- the command line: IMAGE trainer STEP --run-key K --dataset URI --output URI [--params JSON]

COMMAND = "trainer"
STEPS = ("generate", "validate", "preprocess", "features", "train", "evaluate", "predict", "clean")
# The other steps mount the datasets volume read-only: training cannot damage its own data.
STEPS_THAT_WRITE_DATASETS = ("generate", "validate", "preprocess", "features", "predict")

RUN_KEY_FLAG = "--run-key"
DATASET_FLAG = "--dataset"
OUTPUT_FLAG = "--output"
PARAMS_FLAG = "--params"
RESUME_FLAG = "--resume-if-exists"

# ---- run keys: one MLflow run and one checkpoint directory each

MAX_RUN_KEY = 250  # characters
# A run key becomes part of paths, of an MLflow filter and of the name of the MLflow run.
RUN_KEY = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._+:=@-]{{0,{MAX_RUN_KEY - 1}}}")
RUN_KEY_RULE = f"use at most {MAX_RUN_KEY} of A-Z a-z 0-9 . _ + : = @ -"
# A mapped task's run key is the DAG run's key and a suffix: KEY__TASK-3, and KEY__trial-3 of a sweep.
RUN_KEY_SEPARATOR = "__"
RUN_KEY_SUFFIX = re.compile(rf"{RUN_KEY_SEPARATOR}[A-Za-z0-9_.]+-[0-9]+")

# By what rows are split into training, validation and test; and the word for data that is only predicted.
SPLIT_KINDS = ("random", "time", "group")
NO_SPLIT = "none"

# ---- the end of a step


class ExitCode(IntEnum):
    """How a step, or a model server, ended."""

    DONE = 0
    BAD_CONFIG = 64  # bad arguments, parameters or environment: not retried
    BAD_DATA = 65  # the dataset or the model artifact is wrong: not retried
    CODE_ERROR = 70  # an error in the training code: not retried
    TEMPORARY = 75  # the network, MLflow or a disk failed: retried after a pause
    OUT_OF_MEMORY = 137  # retried only with more memory or a smaller batch
    PREEMPTED = 143  # SIGTERM came, a checkpoint is written: retried without using up a try


# The result is one JSON object of metadata. The kubelet reads it as the container's termination message, of
# which it keeps 4096 bytes.
RESULT_PATH = "/airflow/xcom/return.json"
RESULT_LIMIT_BYTES = 4000
# Keys of the result of a step that failed.
RESULT_ERROR = "error"
RESULT_EXIT_CODE = "exit_code"

# ---- the environment

DEVICES = ("cpu", "cuda")


class Env:
    """Environment variables of a step."""

    TRACKING_URI = "MLFLOW_TRACKING_URI"
    EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"
    MLFLOW_RUN_ID = "MLFLOW_RUN_ID"  # empty: the trainer finds or creates the run by its tag Tag.RUN_KEY
    CHECKPOINT_DIR = "CHECKPOINT_DIR"
    CHECKPOINT_FREQ = "CHECKPOINT_FREQ"  # epochs between two checkpoints
    DEVICE = "TRAINYARD_DEVICE"  # one of DEVICES
    ATTEMPT = "TRAINYARD_ATTEMPT"  # 1 for the first
    BATCH_DIVISOR = "TRAINYARD_BATCH_DIVISOR"  # parts in which each batch is computed, to need less memory
    FALLBACK = "TRAINYARD_FALLBACK"  # cpu: the task asked for a GPU and runs without
    GPU_POOL = "TRAINYARD_GPU_POOL"
    PARENT_RUN_KEY = "TRAINYARD_PARENT_RUN_KEY"  # run key of the MLflow run above this one
    AIRFLOW_URL = "TRAINYARD_AIRFLOW_URL"  # page of the DAG run
    USER = "TRAINYARD_USER"  # owner of the MLflow run
    DAG_VERSION = "TRAINYARD_DAG_VERSION"  # the id that Airflow knows it by
    GIT_COMMIT = "GIT_COMMIT"  # that the image was made from, which sets it itself
    RETURN_FILE = "TRAINYARD_RETURN"  # replaces RESULT_PATH
    TRACKING_PATIENCE = "TRAINYARD_TRACKING_PATIENCE"  # seconds for which calls to MLflow are retried
    PEER_TIMEOUT = "TRAINYARD_PEER_TIMEOUT"  # seconds after which a process of a gang counts as lost

    # torchrun's names, of a training in several processes
    MASTER_ADDR = "MASTER_ADDR"
    MASTER_PORT = "MASTER_PORT"
    WORLD_SIZE = "WORLD_SIZE"  # processes in all
    RANK = "RANK"
    LOCAL_WORLD_SIZE = "LOCAL_WORLD_SIZE"  # processes of this node
    LOCAL_RANK = "LOCAL_RANK"
    NODE_RANK = "NODE_RANK"


# ---- MLflow

CHAMPION = "champion"  # alias of the registered version that serves
TAG_PREFIX = "trainyard."


class Tag:
    """Tags of an MLflow run; a logged model has RUN_KEY and WEIGHTS, a registered version RUN_KEY."""

    RUN_KEY = f"{TAG_PREFIX}run_key"
    ATTEMPT = f"{TAG_PREFIX}attempt"
    DEVICE = f"{TAG_PREFIX}device"
    BATCH_DIVISOR = f"{TAG_PREFIX}batch_divisor"
    FALLBACK = f"{TAG_PREFIX}fallback"
    GPU_POOL = f"{TAG_PREFIX}gpu_pool"
    NODES = f"{TAG_PREFIX}nodes"
    WORLD_SIZE = f"{TAG_PREFIX}world_size"
    RESUMED_FROM_EPOCH = f"{TAG_PREFIX}resumed_from_epoch"
    GIT_COMMIT = f"{TAG_PREFIX}git_commit"
    IMAGE = f"{TAG_PREFIX}image"  # with its digest
    DAG_VERSION = f"{TAG_PREFIX}dag_version"
    AIRFLOW_URL = f"{TAG_PREFIX}airflow_url"
    RAW_DATA = f"{TAG_PREFIX}raw_data"
    SPLIT = f"{TAG_PREFIX}split"
    LEAKAGE = f"{TAG_PREFIX}leakage"  # what validate found in the split
    DATA = f"{TAG_PREFIX}data"
    DATA_VERSION = f"{TAG_PREFIX}data_version"
    FEATURES = f"{TAG_PREFIX}features"
    FEATURES_VERSION = f"{TAG_PREFIX}features_version"
    PREDICTIONS = f"{TAG_PREFIX}predictions"
    WEIGHTS = f"{TAG_PREFIX}weights_sha256"
    # MLflow's own
    PARENT_RUN_ID = "mlflow.parentRunId"
    USER = "mlflow.user"
    SOURCE_COMMIT = "mlflow.source.git.commit"


# ---- data

DELIVERY_MARKER = "_SUCCESS"  # written last into a directory of delivered data: it is complete

# ---- model servers


class ServingEnv:
    """Environment variables of a model server, beside Env.TRACKING_URI."""

    MODEL = "TRAINYARD_MODEL"
    MODEL_VERSION = "TRAINYARD_MODEL_VERSION"  # a number, not an alias
    PORT = "TRAINYARD_PORT"


class ServingPath:
    """Paths of a model server."""

    PING = "/ping"
    READY = "/ready"
    VERSION = "/version"
    EXAMPLE = "/example"
    INVOCATIONS = "/invocations"  # MLflow's scoring protocol


VERSION_HEADER = "trainyard-model-version"  # of every response: the version that answered
