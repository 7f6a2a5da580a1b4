"""`TrainingPodOperator`: a training task is one pod, started and ended in the triggerer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.bases.operator import OperatorPartial
from airflow.sdk.definitions._internal.expandinput import DictOfListsExpandInput
from airflow.sdk.exceptions import AirflowFailException
from airflow.triggers.base import StartTriggerArgs

from trainyard.platform import load_platform
from trainyard.templates import as_template

TRIGGER = "trainyard.triggers.TrainingPodTrigger"
# The arguments of TrainingPodOperator which the trigger gets, with their defaults.
DEFAULTS: Mapping[str, Any] = {
    "step_params": {},
    "gpu_pool": None,
    "gpus": 1,
    "image": None,
    "env_vars": {},
    "container_resources": {},
    "deadline": timedelta(hours=2),
    "startup_timeout": timedelta(hours=1),
    "max_preemptions": 5,
}
ARGUMENTS = ("step", "dataset", "output_uri", *DEFAULTS)


class TrainingPodOperator(BaseOperator):
    """Run one step of the trainer contract in a pod of its own.

    No worker pod runs beside it: the scheduler hands the task to the triggerer at once, whose
    `TrainingPodTrigger` launches the pod, follows it and ends the task. The step's result, a JSON
    object, is the task's XCom `return_value`, and each of its keys is an XCom as well, so that
    `task.output["model_uri"]` can be passed on. A failure leaves the XCom `failure`.

    All text in arguments may hold templates (`{{ params.epochs }}`, `{{ run_key }}`; see
    `trainyard.templates`), and `.partial().expand()` and `.expand_kwargs()` work.

    Kubernetes does the queueing for GPUs: Airflow does not hold back a task that starts in the
    triggerer, so its pool counts what runs and waits, and the pod waits in the namespace.

    Args:
        step: `validate`, `preprocess`, `features`, `train`, `evaluate` or `predict`.
        dataset: URI of what the step reads.
        output_uri: URI of where the step writes.
        step_params: the step's parameters (the trainer's `--params`).
        gpu_pool: name of the GPU pool (`gpuPools` in the chart's values), or None for a CPU pod.
        gpus: GPUs of the pod.
        image: another image that honours the trainer contract.
        env_vars: more environment variables, or other values for those of the contract.
        container_resources: `requests` and `limits` which replace the platform's defaults by key.
        deadline: how long one attempt may run.
        startup_timeout: how long a pod may wait for its node, image and volumes.
        max_preemptions: how often a pod that lost its node is launched again within one try.
        kwargs: as for any operator; `pool` is the GPU pool's Airflow pool unless given.
    """

    template_fields = ("dataset", "output_uri", "step_params", "gpu_pool", "image", "env_vars")
    template_fields_renderers = {"step_params": "json", "env_vars": "json"}  # noqa: RUF012
    ui_color = "#d9ead3"
    start_from_trigger = True

    def __init__(
        self,
        *,
        step: str,
        dataset: str,
        output_uri: str,
        step_params: Mapping[str, Any] | None = None,
        gpu_pool: str | None = None,
        gpus: int = DEFAULTS["gpus"],
        image: str | None = None,
        env_vars: Mapping[str, str] | None = None,
        container_resources: Mapping[str, Mapping[str, str]] | None = None,
        deadline: timedelta = DEFAULTS["deadline"],
        startup_timeout: timedelta = DEFAULTS["startup_timeout"],
        max_preemptions: int = DEFAULTS["max_preemptions"],
        **kwargs: Any,
    ) -> None:
        super().__init__(**_with_airflow_pool(kwargs, gpu_pool))
        self.step = step
        self.dataset = dataset
        self.output_uri = output_uri
        self.step_params = step_params or {}
        self.gpu_pool = gpu_pool
        self.gpus = gpus
        self.image = image
        self.env_vars = env_vars or {}
        self.container_resources = container_resources or {}
        self.deadline = deadline
        self.startup_timeout = startup_timeout
        self.max_preemptions = max_preemptions
        self.start_trigger_args = start_trigger_args({name: getattr(self, name) for name in ARGUMENTS})

    @classmethod
    def partial(cls, **kwargs: Any) -> TrainingPodPartial:
        """Begin a mapped task, as with any operator."""
        base = super().partial(**_with_airflow_pool(kwargs, kwargs.get("gpu_pool")))
        base._expand_called = True  # it lives on in the object below
        return TrainingPodPartial(operator_class=cls, kwargs=base.kwargs, params=base.params)

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Nothing: the trigger renders them, and a worker only ever sees the task to fail it."""

    def execute(self, context: Any) -> None:
        """Refuse to run on a worker."""
        raise AirflowFailException(
            f"{self.task_id} starts in the triggerer and cannot run on a worker (`airflow tasks test` and "
            "`dag.test()` try that); trigger the DAG instead"
        )

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> None:
        """Fail the task for good: only a worker can tell Airflow not to try again."""
        raise AirflowFailException(f"{event['cause']}: {event['message']}")


class TrainingPodPartial(OperatorPartial):
    """What `TrainingPodOperator.partial()` returns: it gives the trigger the mapped arguments as well."""

    def _expand(self, expand_input: Any, *, strict: bool) -> Any:
        task = super()._expand(expand_input, strict=strict)
        if isinstance(expand_input, DictOfListsExpandInput):
            mapped = {"product": [list(item) for item in expand_input.value.items()]}
        else:
            mapped = {"kwargs": expand_input.value}
        arguments = {**DEFAULTS, **{k: v for k, v in self.kwargs.items() if k in ARGUMENTS}}
        task.start_trigger_args = start_trigger_args(arguments, mapped)
        return task


def start_trigger_args(
    arguments: Mapping[str, Any], mapped: Mapping[str, Any] | None = None
) -> StartTriggerArgs:
    """What the scheduler needs to start the trigger: `arguments` by their names in `ARGUMENTS`."""
    deadline, startup = arguments["deadline"], arguments["startup_timeout"]
    attempts = 1 + arguments["max_preemptions"]
    kwargs = {
        **as_template({k: v for k, v in arguments.items() if k not in ("deadline", "startup_timeout")}),
        "deadline_seconds": int(deadline.total_seconds()),
        "startup_timeout_seconds": int(startup.total_seconds()),
        "mapped": as_template(mapped or {}),
    }
    return StartTriggerArgs(
        trigger_cls=TRIGGER,
        trigger_kwargs={"request": kwargs},
        next_method="execute_complete",
        # The trigger minds its own time; this ends a task whose trigger cannot even begin.
        timeout=(deadline + startup) * attempts + timedelta(minutes=30),
    )


def _with_airflow_pool(kwargs: dict[str, Any], gpu_pool: Any) -> dict[str, Any]:
    """Count the task in the Airflow pool of its GPU pool, if its name is known before the run."""
    if "pool" in kwargs or not isinstance(gpu_pool, str) or "{{" in gpu_pool:
        return kwargs
    return {**kwargs, "pool": load_platform().pool(gpu_pool).airflow_pool}
