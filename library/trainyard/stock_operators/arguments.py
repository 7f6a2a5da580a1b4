"""Arguments of these operators."""

from __future__ import annotations

from typing import Any

from trainyard.platform import load_platform


def gpu_arguments(gpu_pool: str | None = None, gpus: int = 1) -> dict[str, Any]:
    """Arguments with which a KubernetesPodOperator or KubernetesJobOperator gets GPUs of a pool.

        KubernetesPodOperator(task_id="train", image=IMAGE, **gpu_arguments("spot"))

    Args:
        gpu_pool: a key of the chart's `gpuPools`; None is the default pool.
        gpus: GPUs of the pod.

    Raises:
        PlatformError: there is no such pool.
        ValueError: a node of the pool has fewer GPUs, there is no pool, or it is a list of pools.
    """
    from kubernetes.client import models as k8s

    platform = load_platform()
    name = gpu_pool or platform.default_pool
    if name is None:
        raise ValueError("there is no GPU pool; add one to `gpuPools` of the chart's values")
    pool = platform.pool(name)
    if pool.choices:
        raise ValueError(f"{name} is a list of pools, and only training is queued for; name one of its pools")
    if refusal := pool.refusal(gpus):
        raise ValueError(refusal)
    return {
        "node_selector": dict(pool.node_selector),
        "tolerations": [dict(each) for each in pool.tolerations],
        "container_resources": k8s.V1ResourceRequirements(limits={pool.resource_name: str(gpus)}),
    }
