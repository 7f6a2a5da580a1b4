"""`TrainingPodOperator`: a training task is one pod, which the triggerer launches and follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from airflow.sdk.bases.operator import OperatorPartial
from airflow.sdk.definitions.xcom_arg import XComArg
from airflow.triggers.base import StartTriggerArgs

from trainyard.airflow_compat import group_argument, mapped_arguments, partial_as
from trainyard.platform import load_platform
from trainyard.training.attempt import RetryPlan
from trainyard.training.links import MLflowRunLink, WhyPendingLink
from trainyard.triggerer.base import (
    TriggererOperator,
    forget_default_timeout,
    refuse_workers_arguments,
    start_args,
)

TRIGGER = "trainyard.training.trigger.TrainingPodTrigger"
# The arguments of TrainingPodOperator that the trigger gets, with their defaults.
DEFAULTS: Mapping[str, Any] = {
    "step_params": {},
    "gpu_pool": None,
    "gpus": 1,
    "nodes": 1,
    "image": None,
    "env_vars": {},
    "container_resources": {},
    "scratch_size": None,
    "shared_memory_size": None,
    "deadline": timedelta(hours=2),
    "queue_timeout": timedelta(days=1),
    "startup_timeout": timedelta(hours=1),
    "max_preemptions": 5,
    "run_key": None,
    "parent_run_key": None,
    "on_oom": "memory",
    "fallback": None,
    "fallback_after": timedelta(minutes=30),
    "escalate_to": None,
    "escalate_after": 2,
}
ARGUMENTS = ("step", "dataset", "output_uri", *DEFAULTS)
_TIMES = ("deadline", "queue_timeout", "startup_timeout", "fallback_after")
_PLAN = ("max_preemptions", "on_oom", "fallback", "escalate_after")


class TrainingPodOperator(TriggererOperator):
    """Run one step of the trainer contract in a pod of its own.

    There is no worker pod: the scheduler defers the task at once to the triggerer, where
    `TrainingPodTrigger` launches the pod, follows it and ends the task. The step's result, a JSON
    object, is the XCom `return_value`, and each of its keys is an XCom as well, so that
    `task.output["model_uri"]` can be passed on. The XCom `failure` describes a failure, `pending` why and
    how long the pod waited, `gpu_pool` where it ran, and `fallback` that it ran without a GPU.

    After a lost or reclaimed node or an eviction, another attempt starts, which does not use up an Airflow
    try. After a temporary error, Airflow's `retries` apply. After an out-of-memory error, another attempt
    starts once, as `on_oom` says. Errors in image, configuration, data or code fail the task at once.

    All strings in arguments may be templates (`{{ params.epochs }}`, `{{ run_key }}`; see
    `trainyard.triggerer.templates`), and `.partial().expand()` and `.expand_kwargs()` work.

    Kubernetes does the queueing for GPUs: Airflow starts a task in the triggerer even if its pool is
    full, so the pool counts running and waiting tasks, and the pods wait in the namespace.

    Args:
        step: `generate`, `validate`, `preprocess`, `features`, `train`, `evaluate`, `predict` or `clean`.
        dataset: URI of what the step reads.
        output_uri: URI of where the step writes.
        step_params: the step's parameters (the trainer's `--params`).
        gpu_pool: name of the GPU pool (`gpuPools` in the chart's values), or of a list of pools
            (`gpuPoolLists`), or None for a CPU pod.
        gpus: GPUs of each pod; training uses one process for each.
        nodes: train on so many nodes at once, which start and end together (`trainyard.training.gang`).
        image: another image that implements the trainer contract.
        env_vars: more environment variables, or other values for those of the contract.
        container_resources: `requests` and `limits` that replace the platform's defaults by key.
        scratch_size: limit of /tmp, such as 20Gi, if not the platform's (`training.pod.scratchSize`).
        shared_memory_size: limit of /dev/shm, if not the platform's (`training.pod.sharedMemorySize`).
        deadline: how long one attempt may run.
        queue_timeout: how long it may wait for its turn: for the namespace's quota and for a GPU.
        startup_timeout: how long a pod may take to start, from when it has its node; one without a GPU from
            when it was created. On several nodes also how long only some pods may have GPUs.
        max_preemptions: how often a pod that lost its node is launched again within one try.
        run_key: key of the MLflow run and the checkpoints, if not the DAG run's (a mapped task's own).
        parent_run_key: run key of the parent MLflow run.
        on_oom: what to do once after an out-of-memory error: `memory` doubles the memory, `batch` halves the
            batch (as always if the GPU's memory ran out), `fail` does nothing.
        fallback: `cpu` runs an attempt on a CPU, with half the batch, if no GPU is free in time.
        fallback_after: how long to wait for a GPU before that, a timedelta or seconds.
        escalate_to: name of the GPU pool, or list of pools, for attempts after reclaims, for instance from
            spot to on-demand.
        escalate_after: after how many reclaims.
        kwargs: as for any operator; `pool` defaults to the Airflow pool of the GPU pool. What only a worker
            minds is refused: `execution_timeout`, `pre_execute`, `executor_config` and so on.
    """

    template_fields = (
        *("dataset", "output_uri", "step_params", "gpu_pool", "image", "env_vars", "container_resources"),
        *("scratch_size", "shared_memory_size"),
        *("nodes", "run_key", "parent_run_key", "on_oom", "fallback", "escalate_to"),
    )
    template_fields_renderers = {  # noqa: RUF012
        **{"step_params": "json", "env_vars": "json", "container_resources": "json"}
    }
    operator_extra_links = (WhyPendingLink(), MLflowRunLink())
    ui_color = "#d9ead3"

    def __init__(
        self,
        *,
        step: str,
        dataset: str,
        output_uri: str,
        step_params: Mapping[str, Any] | None = None,
        gpu_pool: str | None = None,
        gpus: int = DEFAULTS["gpus"],
        nodes: int | str = DEFAULTS["nodes"],
        image: str | None = None,
        env_vars: Mapping[str, str] | None = None,
        container_resources: Mapping[str, Mapping[str, str]] | None = None,
        scratch_size: str | None = None,
        shared_memory_size: str | None = None,
        deadline: timedelta = DEFAULTS["deadline"],
        queue_timeout: timedelta = DEFAULTS["queue_timeout"],
        startup_timeout: timedelta = DEFAULTS["startup_timeout"],
        max_preemptions: int = DEFAULTS["max_preemptions"],
        run_key: str | None = None,
        parent_run_key: str | None = None,
        on_oom: str = DEFAULTS["on_oom"],
        fallback: str | None = None,
        fallback_after: timedelta | float | str = DEFAULTS["fallback_after"],
        escalate_to: str | None = None,
        escalate_after: int = DEFAULTS["escalate_after"],
        **kwargs: Any,
    ) -> None:
        super().__init__(**_with_airflow_pool(kwargs, gpu_pool))
        self.step = step
        self.dataset = dataset
        self.output_uri = output_uri
        self.step_params = step_params or {}
        self.gpu_pool = gpu_pool
        self.gpus = gpus
        self.nodes = nodes
        self.image = image
        self.env_vars = env_vars or {}
        self.container_resources = container_resources or {}
        self.scratch_size = scratch_size
        self.shared_memory_size = shared_memory_size
        self.deadline = deadline
        self.queue_timeout = queue_timeout
        self.startup_timeout = startup_timeout
        self.max_preemptions = max_preemptions
        self.run_key = run_key
        self.parent_run_key = parent_run_key
        self.on_oom = on_oom
        self.fallback = fallback
        self.fallback_after = fallback_after
        self.escalate_to = escalate_to
        self.escalate_after = escalate_after
        self.start_trigger_args = start_trigger_args({name: getattr(self, name) for name in ARGUMENTS})

    @classmethod
    def partial(cls, **kwargs: Any) -> TrainingPodPartial:
        """Begin a mapped task, as with any operator."""
        # Skips TriggererOperator.partial, which refuses: TrainingPodPartial passes the mapped arguments on.
        base = super(TriggererOperator, cls).partial(**_with_airflow_pool(kwargs, kwargs.get("gpu_pool")))
        forget_default_timeout(base.kwargs)
        refuse_workers_arguments(kwargs["task_id"], base.kwargs)
        return partial_as(TrainingPodPartial, base)


class TrainingPodPartial(OperatorPartial):
    """What `TrainingPodOperator.partial()` returns: it also passes the mapped arguments to the trigger."""

    def expand(self, **mapped_kwargs: Any) -> Any:
        """Map over each of the lists, as with any operator."""
        return self._started(super().expand(**mapped_kwargs))

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> Any:
        """Map over a list of arguments, as with any operator."""
        return self._started(super().expand_kwargs(kwargs, strict=strict))

    def _started(self, task: Any) -> Any:
        arguments = {**DEFAULTS, **{k: v for k, v in self.kwargs.items() if k in ARGUMENTS}}
        task.start_trigger_args = start_trigger_args(arguments, mapped_arguments(task))
        return task


def start_trigger_args(
    arguments: Mapping[str, Any], mapped: Mapping[str, Any] | None = None
) -> StartTriggerArgs:
    """What the scheduler needs to start the trigger: `arguments` by their names in `ARGUMENTS`."""
    _check(arguments)
    attempt = sum((arguments[name] for name in ("queue_timeout", "startup_timeout", "deadline")), timedelta())
    # The first attempt, those after reclaims, one after an out-of-memory error and one on a CPU.
    attempts = 3 + arguments["max_preemptions"]
    request = {
        **{name: value for name, value in arguments.items() if name not in _TIMES},
        **{f"{name}_seconds": _seconds(arguments[name]) for name in _TIMES},
        "mapped": mapped or {},
    }
    return start_args(TRIGGER, request, attempt * attempts + timedelta(minutes=30))


def _check(arguments: Mapping[str, Any]) -> None:
    """Validate the arguments that are no templates when the DAG is parsed."""
    constants = {name: value for name, value in arguments.items() if not _is_template(value)}
    plan = RetryPlan(**{name: constants[name] for name in _PLAN if name in constants})
    if "fallback_after" in constants:
        replace(plan, fallback_after_seconds=_seconds(constants["fallback_after"]))
    if escalate_to := constants.get("escalate_to"):
        load_platform().pool(escalate_to)


def _seconds(value: Any) -> Any:
    return int(value.total_seconds()) if isinstance(value, timedelta) else value


def _is_template(value: Any) -> bool:
    """Whether the value is known only in a run."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    return isinstance(value, XComArg) or group_argument(value) is not None


def _with_airflow_pool(kwargs: dict[str, Any], gpu_pool: Any) -> dict[str, Any]:
    """Set the Airflow pool of the GPU pool, unless the GPU pool's name is a template."""
    if "pool" in kwargs or not isinstance(gpu_pool, str) or _is_template(gpu_pool):
        return kwargs
    return {**kwargs, "pool": load_platform().pool(gpu_pool).airflow_pool}
