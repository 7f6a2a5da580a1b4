"""The training pipeline: what the DAGs of `models/*.yaml` are made of."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, Param, TaskGroup

from trainyard.alerts.callbacks import on_success
from trainyard.alerts.tasks import notify
from trainyard.assets import DATE
from trainyard.defaults import dag_args, default_args
from trainyard.factory.spec import ModelSpec, param_schema
from trainyard.flow import day_of_data
from trainyard.params import data_date_param, in_chosen_pool, model_name_param, nodes_param, pool_param
from trainyard.platform import Platform
from trainyard.registry.tasks import gate, passed, promote, register
from trainyard.training.cleanup import clean_up
from trainyard.training.operator import TrainingPodOperator
from trainyard.triggerer.templates import as_template

DATA_DEADLINE = timedelta(minutes=30)
# The trainer's parameter for each key of `split`.
SPLIT_PARAMS = {"by": "split", "column": "split_column", "max_repeated": "max_repeated"}
MODEL_NAME = "{{ params.model_name }}"

DOC = """
{description}.

Made from `{file}`, which the code tab shows; see "Add a model" in the README.
{started}
`validate` and `preprocess` put a versioned data set into the lake, `train` resumes from its last checkpoint
after losing its node, `evaluate` measures it and the champion on the same held-out data. `gate` compares
`{metric}` to the minimum and with the champion's, and `register` makes a version of the model.
{release}`promote` names it `champion` or `challenger`.

To try it: trigger it with other values below, or `./scripts/run {dag_id}`.
"""
QUESTION = (
    "Shall {{ params.model_name }} v{{ ti.xcom_pull(task_ids='register')['version'] }} become champion?"
)
GROUNDS = """
{{ ti.xcom_pull(task_ids='gate')['reason'] }}

{% for name, value in ti.xcom_pull(task_ids='evaluate').items() if value is number -%}
- {{ name }}: {{ value }}
{% endfor %}
"""


def training_pipeline(spec: ModelSpec, platform: Platform) -> DAG:
    """The DAG of a model: validate, preprocess and features, train, evaluate, gate, register, promote.

    A version that passed the gate is approved and deployed before it is promoted, where the model wants that:
    the alias `champion` never points to what does not serve.
    """
    with DAG(
        spec.dag_id,
        description=spec.description,
        doc_md=_doc(spec),
        tags=sorted({"training", spec.model, *spec.tags}),
        params=_params(spec, platform),
        schedule=Asset(spec.asset) if spec.asset else spec.schedule,
        on_success_callback=on_success if spec.notify == "always" else None,
        auto_register=False,
        **dag_args(
            max_active_runs=spec.max_active_runs,
            dagrun_timeout=spec.timeout,
            default_args=default_args(owner=spec.owner, retries=spec.retries),
        ),
    ) as dag:
        date: Any = day_of_data() if spec.asset else DATE
        evaluation = _training(spec, platform, date)
        decision: Any = gate(
            evaluation,
            model=MODEL_NAME,
            metric=spec.gate.metric,
            minimum="{{ params.minimum }}",
            min_improvement="{{ params.min_improvement }}",
        )
        version: Any = register(evaluation, model=MODEL_NAME)
        decision >> version
        answer, released = _release(spec, decision, version)
        promotion: Any = promote(evaluation, decision, answer, model=MODEL_NAME, date=date)
        [version, *released] >> promotion
        notify(promotion, evaluation)
        clean_up(dag)
    return dag


def _doc(spec: ModelSpec) -> str:
    started = f"Each update of `{spec.asset}` starts it, for the day that the update names.\n"
    steps = ["a person approves it"] if spec.approval else []
    steps += ["it is deployed"] if spec.deploy else []
    return DOC.format(
        description=spec.description,
        file=f"models/{spec.name}.yaml",
        metric=spec.gate.metric,
        started=started if spec.asset else "",
        release=f"If it is good enough, {' and '.join(steps)}. " if steps else "",
        dag_id=spec.dag_id,
    )


def _params(spec: ModelSpec, platform: Platform) -> dict[str, Param]:
    """What one run may have otherwise."""
    params = {name: Param(value, **param_schema(name)) for name, value in spec.train.params.items()}
    if spec.train.pool:
        params["pool"] = pool_param(platform, spec.train.pool)
        if not spec.train.fallback:  # a CPU cannot replace several nodes
            params["nodes"] = nodes_param(spec.train.nodes)
    share: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}
    return {
        **params,
        "minimum": Param(spec.gate.minimum, **share, description=f"{spec.gate.metric} that a champion needs"),
        "min_improvement": Param(
            spec.gate.min_improvement,
            **share,
            description=f"by how much {spec.gate.metric} must beat the champion's",
        ),
        "model_name": model_name_param(spec.registered_as),
        "data_date": data_date_param(),
    }


def _training(spec: ModelSpec, platform: Platform, date: Any) -> Any:
    """The tasks up to `evaluate`, whose result they return; `date` is the day of the data."""
    model = {"model": spec.model}
    split = {SPLIT_PARAMS[key]: value for key, value in spec.split.items()}
    data: dict[str, Any] = {
        "output_uri": platform.training.datasets.uri,
        "step_params": {**model, "date": date, **split},
        "deadline": DATA_DEADLINE,
    }
    checkpoints = f"{platform.training.checkpoints.uri}/{{{{ run_key }}}}"
    with TaskGroup("data", prefix_group_id=False, tooltip="A versioned data set in the lake"):
        source = spec.data.replace("{date}", as_template(date))
        raw = _step("validate", spec, dataset=source, **data)["dataset"]
        dataset = _step("preprocess", spec, dataset=raw, **data)["dataset"]
        features = {}
        if spec.features:
            features["features_uri"] = _step("features", spec, dataset=raw, **data)["dataset"]
    train = _step(
        "train",
        spec,
        dataset=dataset,
        output_uri=f"{checkpoints}/model",
        step_params={**model, **features, **{name: f"{{{{ params.{name} }}}}" for name in spec.train.params}},
        deadline=spec.train.deadline,
        container_resources=spec.train.resources,
        scratch_size=spec.train.scratch_size,
        shared_memory_size=spec.train.shared_memory_size,
        **_gpus(spec, platform),
    )
    return _step(
        "evaluate",
        spec,
        dataset=dataset,
        output_uri=f"{checkpoints}/evaluation",
        step_params={**model, **features, "model_uri": train["model_uri"], "champion": MODEL_NAME},
        deadline=DATA_DEADLINE,
    )


def _step(step: str, spec: ModelSpec, **arguments: Any) -> Any:
    """A step of the trainer; returns its result, for other tasks."""
    return TrainingPodOperator(task_id=step, step=step, image=spec.image, **arguments).output


def _gpus(spec: ModelSpec, platform: Platform) -> dict[str, Any]:
    train = spec.train
    if train.pool is None:
        return {}
    return {
        **in_chosen_pool(platform, train.pool),
        "gpus": train.gpus,
        "nodes": 1 if train.fallback else "{{ params.nodes }}",
        "fallback": train.fallback,
        "fallback_after": train.fallback_after,
        "escalate_to": train.escalate_to,
    }


def _release(spec: ModelSpec, decision: Any, version: Any) -> tuple[Any, list[Any]]:
    """The tasks between `register` and `promote`: the person's answer, and what has to come before `promote`.

    They are skipped for a version that did not pass the gate.
    """
    if not (spec.approval or spec.deploy):
        return None, []
    answer = None
    with TaskGroup("release", prefix_group_id=False, tooltip="Only for what passed the gate"):
        last: Any = passed(decision, version)
        if spec.approval:
            from trainyard.registry.approval import approval_task

            approve = approval_task(
                "approve",
                subject=QUESTION,
                body=GROUNDS,
                timeout=spec.approval.timeout,
                approvers=spec.approval.approvers,
            )
            answer = approve.output
            last >> approve
            last = approve
        if spec.approval and spec.deploy:
            # The answer may have taken days, and what is deployed should be the champion.
            still = passed(decision, version, task_id="still_passed")
            last >> still
            last = still
        if spec.deploy:
            from trainyard.serving.operator import DeployModelOperator

            deploy = DeployModelOperator(
                task_id="deploy",
                model=MODEL_NAME,
                version=version["version"],
                replicas=spec.deploy.replicas,
                image=spec.image,
            )
            last >> deploy
            last = deploy
    return answer, [last]
