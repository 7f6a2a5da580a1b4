"""What is switched off leaves nothing behind."""

from __future__ import annotations

import pytest
from components import VARIANTS
from render import identity, platform, render_chart

SUBCHARTS = ("airflow", "mlflow", "nvidia-device-plugin", "postgresql", "versitygw")
# Without its own MLflow the chart must be told of another.
NEEDED = {"mlflow": {"training": {"trackingUri": "http://mlflow.example.com"}}}


FILES = [
    files if files in ((), ("production.yaml",)) else pytest.param(files, marks=pytest.mark.exhaustive)
    for files in VARIANTS
]


@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("switch", SUBCHARTS)
def test_a_disabled_subchart_renders_nothing(files: tuple[str, ...], switch: str) -> None:
    objects = render_chart(files=files, values={switch: {"enabled": False}, **NEEDED.get(switch, {})})
    left = {identity(one) for one in objects}
    off = {component.identity for component in VARIANTS[files] if component.switch == switch}
    assert not left & off
    assert not [one for one in objects if one["metadata"]["labels"]["app.kubernetes.io/name"] == switch]


def test_everything_off_leaves_the_training_namespace() -> None:
    off = {name: {"enabled": False} for name in SUBCHARTS}
    kinds = {one["kind"] for one in render_chart(values={**off, **NEEDED["mlflow"]})}
    assert kinds == {
        "ConfigMap",
        "Job",
        "LimitRange",
        "Namespace",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PriorityClass",
        "ResourceQuota",
        "ServiceAccount",
    }


@pytest.mark.parametrize(
    ("values", "gone"),
    [
        ({"secrets": {"bootstrap": {"enabled": False}}}, ("Job", "trainyard-bootstrap-secrets")),
        ({"airflow": {"rbac": {"create": False}}}, ("RoleBinding", "trainyard-training-launcher")),
        ({"airflowLogs": {"create": False}}, ("PersistentVolumeClaim", "airflow-logs")),
        ({"training": {"volumes": {"datasets": {"create": False}}}}, ("PersistentVolumeClaim", "datasets")),
        ({"training": {"createNamespace": False}}, ("Namespace", "ml-training")),
        ({"priorityClasses": {"trainyard-spot": {"enabled": False}}}, ("PriorityClass", "trainyard-spot")),
        ({"airflow": {"migrateDatabaseJob": {"enabled": False}}}, ("Job", "trainyard-migrate-database")),
        ({"airflow": {"databaseCleanup": {"enabled": False}}}, ("CronJob", "trainyard-database-cleanup")),
        (
            {"mlflow": {"garbageCollection": {"enabled": False}}},
            ("CronJob", "trainyard-mlflow-garbage-collection"),
        ),
    ],
)
def test_a_single_object_can_be_switched_off(values: dict, gone: tuple[str, str]) -> None:
    assert gone in {identity(one) for one in render_chart()}
    assert gone not in {identity(one) for one in render_chart(values=values)}


@pytest.mark.parametrize(
    ("config", "budget"),
    [
        ({}, {"maxUnavailable": 1}),
        ({"maxUnavailable": "50%"}, {"maxUnavailable": "50%"}),
        ({"minAvailable": 1}, {"minAvailable": 1}),
        ({"minAvailable": 0, "maxUnavailable": 1}, {"minAvailable": 0}),
    ],
)
def test_a_budget_says_one_of_the_two(config: dict, budget: dict) -> None:
    """Kubernetes refuses both; the default of one of them stays where the other is set."""
    values = {"podDisruptionBudget": {"enabled": True, "config": config}}
    objects = render_chart(values={"airflow": {"apiServer": values}, "mlflow": values})
    budgets = [one["spec"] for one in objects if one["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == 2
    assert all({key: one[key] for key in one if key != "selector"} == budget for one in budgets)


def test_a_pool_may_be_closed() -> None:
    objects = render_chart(values={"gpuPools": {"spot": {"nodes": {"max": 0}}}})
    assert platform(objects)["pools"]["spot"]["kindNodes"] == 0
    assert platform(objects)["pools"]["spot"]["maxNodes"] == 0
