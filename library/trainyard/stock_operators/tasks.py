"""Tasks of these operators, when Airflow reads their DAG file."""

from __future__ import annotations

from typing import Any

from trainyard.platform import PlatformError, StockOperators, load_platform

_OPERATORS = "airflow.providers.cncf.kubernetes.operators."
# What public examples name, or nothing.
UNNAMED = (None, "", "default")


def prepare(task: Any) -> None:
    """Give a task of these operators the namespace for them, and its worker pod the right to use it.

    Args:
        task: an operator, or a mapped one. Of others nothing is changed.
    """
    if not _launches_pods(task):
        return
    try:
        settings = load_platform().stock_operators
    except PlatformError:  # the library without the chart
        return
    if settings is None:
        return
    values = _values(task)
    if values.get("namespace") in UNNAMED:
        values["namespace"] = settings.namespace
    if settings.launcher:
        values["executor_config"] = _with_launcher(values.get("executor_config"), settings)


def _launches_pods(task: Any) -> bool:
    kind = getattr(task, "operator_class", type(task))  # a mapped task is of another class
    return isinstance(kind, type) and any(each.__module__.startswith(_OPERATORS) for each in kind.__mro__)


def _values(task: Any) -> dict[str, Any]:
    """Where the arguments of a task are, to be read and changed."""
    values: dict[str, Any] = task.partial_kwargs if hasattr(task, "partial_kwargs") else vars(task)
    return values


def _with_launcher(config: Any, settings: StockOperators) -> dict[str, Any]:
    """Add the ServiceAccount that launches pods to a task's `executor_config`, unless it names one."""
    from kubernetes.client import models as k8s

    config = dict(config or {})
    pod = config.get("pod_override") or k8s.V1Pod()
    pod.spec = pod.spec or k8s.V1PodSpec(containers=[k8s.V1Container(name="base")])
    if not pod.spec.service_account_name:
        pod.spec.service_account_name = settings.launcher
        pod.spec.automount_service_account_token = True
    return {**config, "pod_override": pod}
