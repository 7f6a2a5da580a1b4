"""Put a registered model version into service by hand, for instance an earlier one again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task
from trainyard.assets import CHAMPIONS, announce_champion
from trainyard.defaults import dag_args
from trainyard.platform import load_platform
from trainyard.serving.operator import DeployModelOperator

DOC = """
Deploys a version of a model from the registry, by number or alias, and names it `champion` once it serves.

The server is rolled out beside the one that serves. If it does not get ready, or fails its smoke prediction,
it is rolled back by itself and the version before goes on serving.

To go back to version 3: `./scripts/run deploy_model --conf '{"model": "fraud", "version": "3"}'`.
"""

PARAMS = {
    "model": Param(
        "digits", type="string", pattern=r"^[A-Za-z0-9._-]{1,100}$", description="name in the registry"
    ),
    "version": Param(
        "champion",
        type="string",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="number of the version, or an alias such as champion",
    ),
    "make_champion": Param(
        True, type="boolean", description="give it the alias champion, so that the alias names what serves"
    ),
}

with DAG(
    "deploy_model",
    description="Serve a registered model version, or go back to one",
    doc_md=DOC,
    tags=["serving"],
    params=PARAMS,
    schedule=None,
    # Different models deploy side by side; of two deploys of one model the later wins.
    **dag_args(max_active_runs=16, dagrun_timeout=timedelta(hours=1)),
) as dag:
    deploy = DeployModelOperator(task_id="deploy", model="{{ params.model }}", version="{{ params.version }}")

    @task.short_circuit(execution_timeout=timedelta(minutes=5))
    def wanted() -> bool:
        """Whether the run is to move the alias."""
        return bool(get_current_context()["params"]["make_champion"])

    @task(execution_timeout=timedelta(minutes=5), outlets=[CHAMPIONS])
    def appoint(deployed: dict[str, Any]) -> dict[str, Any]:
        """Name what serves champion; the version before keeps a tag that says until when it was."""
        from trainyard.registry.client import appoint as appoint_version
        from trainyard.registry.client import connect

        context = get_current_context()
        dag_run = context["dag_run"]
        promotion = appoint_version(
            connect(load_platform().training.tracking_uri),
            model=deployed["model"],
            version=deployed["version"],
            reason=f"deployed by {dag_run.dag_id}, run {dag_run.run_id}",
            tags={
                "triggered_by": dag_run.triggering_user_name
                or str(getattr(dag_run.run_type, "value", dag_run.run_type))
            },
        )
        if promotion.moved:
            announce_champion(
                context["outlet_events"],
                model=promotion.model,
                version=promotion.version,
                date=f"{dag_run.run_after:%Y-%m-%d}",
            )
        return vars(promotion)

    deploy >> wanted() >> appoint(deploy.output)
