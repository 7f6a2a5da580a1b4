"""Every kind of control task, and what follows from each."""

from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, Param, TaskGroup, task, task_group
from trainyard.operators import (
    arrived,
    candidates,
    choose,
    day_of_data,
    gate,
    make_champion,
    notify,
    only_if,
    promote,
    register,
)

DELIVERY = Asset("s3://incoming/x")
PARAMS = {
    "evaluation": Param({}, type="object"),
    "model": "m",
    "date": "2026-01-02",
    "no": False,
    "epochs": 3,
    "seed": 0,
}
ARGS = {"retries": 1, "retry_delay": timedelta(seconds=1)}

with DAG("control", schedule=None, params=PARAMS, default_args=ARGS):
    evaluation, model = "{{ params.evaluation }}", "{{ params.model }}"
    limits = {"minimum": "{{ 0.5 }}", "min_improvement": 0}
    decision = gate(evaluation, model=model, metric="f1", **limits)
    version = register(evaluation, model=model)
    decision >> version
    with TaskGroup("good") as good:
        promotion = promote(evaluation, decision, model=model, date="{{ params.date }}")
        version >> promotion
    with TaskGroup("bad") as bad:
        EmptyOperator(task_id="never") >> EmptyOperator(task_id="after_never")
    join = EmptyOperator(task_id="join", trigger_rule="none_failed_min_one_success")
    choose(decision["passed"], then="good", otherwise="bad", task_id="route") >> [good, bad, join]
    [good, bad] >> join
    notify(promotion, evaluation)

    skipped = EmptyOperator(task_id="skipped")
    later = EmptyOperator(task_id="later", trigger_rule="all_done")
    only_if("{{ params.no }}", task_id="no") >> skipped >> later
    only_if("{{ not params.no }}", task_id="yes") >> EmptyOperator(task_id="goes_on")

    arrived("{{ params.date }}", outlets=[DELIVERY])

    trials = candidates("", model="m", space={"a": [1, 2, 3]})
    # Nobody runs it here: that it is mapped three times is what counts.
    BashOperator.partial(task_id="each", bash_command="true").expand(env=trials)

    gate(evaluation, model=model, metric="nothing", **limits, task_id="fails", retries=0)
    gate(evaluation, model=model, metric="nothing", **limits, task_id="fails_for_good")
    make_champion({"model": "none such", "version": "1"}, task_id="appoint", retries=0)

with DAG("on_delivery", schedule=DELIVERY, params={"data_date": None}):
    day_of_data()

with DAG("mapped_group", schedule=None, params=PARAMS):

    @task_group
    def judged(evaluation, trial):
        decision = gate(evaluation, model="none such", metric="f1", minimum=0.5, min_improvement=0)
        found = {"passed": [decision["passed"]], "a": [trial]}
        candidates("{{ run_key }}", model="m", space=found, task_id="repeat")

    trials = candidates("", model="m", space={"a": ["{{ params.epochs }}", 7]})
    judged.expand(evaluation=[{"f1": 0.9}, {"f1": 0.1}], trial=trials)

with DAG("without_triggerer", schedule=None, params=PARAMS, default_args={"retries": 0}):
    trials = candidates("{{ run_key }}", model="m", space={"a": ["{{ params.epochs }}", 7]})
    decision = gate({"f1": 0.9}, model="none such", metric="f1", minimum="{{ 0.5 }}", min_improvement=0)
    only_if(decision["passed"], task_id="yes") >> EmptyOperator(task_id="goes_on")
    only_if("{{ params.no }}", task_id="no") >> EmptyOperator(task_id="skipped")
    choose(decision["passed"], then="then", otherwise="otherwise", task_id="route") >> [
        EmptyOperator(task_id="then"),
        EmptyOperator(task_id="otherwise"),
    ]
    task(lambda trial: trial["step_params"]["a"], task_id="tell").expand(trial=trials)
    judged.expand(evaluation=[{"f1": 0.9}, {"f1": 0.1}], trial=trials)
    gate({"f1": 0.9}, model="none such", metric="nothing", minimum=0, min_improvement=0, task_id="fails")
