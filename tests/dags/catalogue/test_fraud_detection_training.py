"""fraud_detection_training: the graph, and the conditions under which its parts run."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.definitions.param import ParamValidationError
from fraud_detection_training import MODEL, SPACE, dag
from trainyard.assets import CHAMPIONS, incoming_marker
from trainyard.tuning import search_space


def downstream(task_id: str) -> set[str]:
    return set(dag.get_task(task_id).downstream_task_ids)


def request_of(task_id: str) -> dict[str, Any]:
    return dict(dag.get_task(task_id).start_trigger_args.trigger_kwargs["request"])


def test_it_waits_for_data_without_a_worker_and_not_for_ever() -> None:
    request = request_of("wait_for_data")
    assert request["uri"] == incoming_marker("transactions")
    assert (request["connection"], request["patience_seconds"]) == ("trainyard_s3", 6 * 3600)
    assert dag.timetable.expression == "0 2 * * 1"


def test_cleaning_runs_beside_feature_engineering() -> None:
    assert downstream("wait_for_data") == {"data.validate"}
    assert downstream("data.validate") == {"data.preprocess", "data.features"}
    assert "data.features" not in downstream("data.preprocess")
    assert "tuning.candidates" in downstream("data.features")


def test_the_split_that_is_checked_is_the_one_that_is_made() -> None:
    assert dag.params["split"] == "time"
    for task_id in ("data.validate", "data.preprocess"):
        assert request_of(task_id)["step_params"]["split"] == "{{ params.split }}"


def test_nine_settings_are_mapped_over_gpu_pods() -> None:
    assert dag.params["space"] == SPACE
    assert request_of("tuning.candidates")["arguments"]["space"] == "{{ params.space }}"
    settings = search_space.settings("grid", SPACE, trials=9, seed=0)
    assert len(settings) == 9 and len({tuple(each.items()) for each in settings}) == 9
    train = dag.get_task("tuning.train")
    assert train.is_mapped and train.partial_kwargs["pool"] == "gpu-ondemand"
    request = train.start_trigger_args.trigger_kwargs["request"]
    assert request["mapped"]["kwargs"].startswith("{{ ti.xcom_pull(task_ids='tuning.candidates'")
    assert request["gpu_pool"] == "{{ params.pool }}"


def test_one_trial_is_enough() -> None:
    select = dag.get_task("tuning.select_best")
    assert select.trigger_rule == "all_done_min_one_success"
    assert select.upstream_task_ids == {"tuning.candidates", "tuning.train"}


def test_the_best_trial_keeps_its_mlflow_run() -> None:
    request = request_of("judgement.evaluate")
    assert "task_ids='tuning.select_best', key='run_key'" in request["run_key"]
    assert "key='parent_run_key'" in request["parent_run_key"]
    assert "task_ids='data.features', key='dataset'" in request["step_params"]["features_uri"]
    assert request["step_params"]["champion"] == "{{ params.model_name }}"


def test_what_serves_becomes_champion_and_not_before() -> None:
    assert downstream("route") == {"deploy.register", "skip.register_challenger"}
    assert "deploy.rollout" in downstream("deploy.register")
    assert "deploy.promote" in downstream("deploy.rollout")
    # With the rule of `promote` itself, the tasks would run although their group is skipped.
    for task_id in ("deploy.promote", "skip.register_challenger"):
        assert dag.get_task(task_id).trigger_rule == "all_success"
    assert dag.get_task("deploy.promote").outlets == [CHAMPIONS]


def test_it_notifies_whichever_way_it_went() -> None:
    notify = dag.get_task("notify")
    assert notify.trigger_rule == "none_failed_min_one_success"
    assert {"deploy.promote", "skip.register_challenger"} <= notify.upstream_task_ids


def test_it_can_trigger_the_inference() -> None:
    predict = dag.get_task("deploy.predict")
    assert predict.trigger_dag_id == "batch_inference"
    assert set(predict.conf) == {"model_name", "data_date"}
    assert predict.upstream_task_ids == {"deploy.predict_after"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("threshold", -0.1), ("threshold", 2), ("min_improvement", -2)),
        *(("model_name", "a/b"), ("epochs", 0), ("split", "none"), ("split", "")),
        *(("space", {}), ("space", {"hidden": []}), ("space", {"hidden": {"low": 1, "high": 9}})),
    ],
)
def test_a_bad_value_is_refused_before_the_run(name: str, value: object) -> None:
    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).resolve(value)


def test_every_group_says_what_it_is_for() -> None:
    groups = [group for name, group in dag.task_group_dict.items() if name]
    assert {group.group_id for group in groups} == {"data", "tuning", "judgement", "deploy", "skip"}
    assert all(group.tooltip for group in groups)
    assert dag.params["model_name"] == MODEL
