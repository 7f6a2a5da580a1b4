"""Make the data that upstream systems would deliver."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from trainyard.operators import (
    DATE,
    TrainingPodOperator,
    arrived,
    dag_args,
    data_date_param,
    incoming,
    incoming_uri,
    seed_param,
)

NAMES = ("transactions", "customers", "ratings")

DOC = """
Stands for the systems that deliver data: card transactions, customers and ratings, made up for the day by
seeded generators (the same day and seed give the same bytes, and days drift apart slowly).

Each lands in `s3://incoming/<name>/date=<day>/`, with `_SUCCESS` last, which `fraud_detection_training` waits
for. `arrived` reports the assets, for DAGs that are scheduled by them.

To try it: `./scripts/run data_arrival --conf '{"rows": 5000}'`. Where real data arrives, switch this DAG off.
"""

PARAMS = {
    "rows": Param(
        20_000, type="integer", minimum=100, maximum=5_000_000, description="rows of each delivery"
    ),
    "seed": seed_param("makes the cards, customers, users and items, which stay the same from day to day"),
    "data_date": data_date_param(),
}

with DAG(
    "data_arrival",
    description="Deliver transactions, customers and ratings of the day",
    doc_md=DOC,
    tags=["data"],
    params=PARAMS,
    schedule="0 1 * * 1",  # before fraud_detection_training
    **dag_args(dagrun_timeout=timedelta(hours=3)),
) as dag:
    generate = TrainingPodOperator.partial(
        task_id="generate",
        step="generate",
        step_params={"date": DATE},
        deadline=timedelta(minutes=30),
    ).expand_kwargs(
        [
            {
                "dataset": f"generator://{name}?rows={{{{ params.rows }}}}&seed={{{{ params.seed }}}}",
                "output_uri": incoming_uri(name),
            }
            for name in NAMES
        ]
    )

    # A task of its own, for all deliveries at once.
    generate >> arrived(DATE, outlets=[incoming(name) for name in NAMES])
