"""Deploy a registered model version by hand, for instance an earlier one again."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from trainyard.operators import DeployModelOperator, dag_args, make_champion, only_if

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

    wanted = only_if("{{ params.make_champion }}", task_id="wanted")
    deploy >> wanted >> make_champion(deploy.output, task_id="appoint")
