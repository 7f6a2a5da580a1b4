"""Pods of these operators, just before they are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainyard.platform import GpuPool, Platform, PlatformError, load_platform

# The operators set it on every pod that they make.
MARK = "airflow_kpo_in_cluster"
SIDECAR = "airflow-xcom-sidecar"
SHARED_MEMORY = "/dev/shm"
# What the level `restricted` asks for. Not a read-only root: images from elsewhere write where they like.
CONTAINER = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def complete(pod: Any) -> None:
    """Fill in what the author of a pod left out: security, placement, shared memory, priority.

    Args:
        pod: a V1Pod. One of another namespace, or of the executor, is not changed.
    """
    if pod.metadata is None or MARK not in (pod.metadata.labels or {}):
        return
    try:
        platform = load_platform()
    except PlatformError:  # the library without the chart
        return
    settings = platform.stock_operators
    if settings is None or pod.metadata.namespace != settings.namespace:
        return
    _secure(pod, platform)
    if not pod.spec.service_account_name:
        pod.spec.service_account_name = settings.service_account_name
        pod.spec.automount_service_account_token = False
    pool = _place(pod, platform)
    if pool and not _mounts(pod.spec.containers[0], SHARED_MEMORY):
        _mount_shared_memory(pod, platform.training.pod.merged(pool.pod).shared_memory_size)
    if not pod.spec.priority_class_name:
        pod.spec.priority_class_name = platform.training.priority_class(pool)
    for container in pod.spec.containers:
        if container.name == SIDECAR:  # a shell that waits; its own image may not be there
            container.image = platform.training.image
            container.image_pull_policy = platform.training.image_pull_policy


def _secure(pod: Any, platform: Platform) -> None:
    """Add to the security contexts what they do not say."""
    own = _said(pod.spec.security_context)
    pod.spec.security_context = {**platform.training.pod_security_context, **own}
    for container in (*(pod.spec.init_containers or []), *pod.spec.containers):
        container.security_context = {**CONTAINER, **_said(container.security_context)}


def _said(part: Any) -> dict[str, Any]:
    """The fields of a part of a pod that are set, by the names that Kubernetes has for them."""
    from kubernetes.client import ApiClient

    said: dict[str, Any] = ApiClient().sanitize_for_serialization(part) or {}
    return said


def _place(pod: Any, platform: Platform) -> GpuPool | None:
    """Let a pod with GPUs onto the nodes of its pool; where it names none, of the first with such GPUs."""
    wanted = _resources(pod)
    pools = [pool for pool in _in_order(platform) if pool.resource_name in wanted]
    if not pools:
        return None
    chosen = [pool for pool in pools if _selects(pod, pool)]
    if not chosen and not pod.spec.node_selector and not pod.spec.affinity:
        chosen = pools[:1]
        pod.spec.node_selector = dict(pools[0].node_selector)
    # Where it chose nodes by labels of its own, it may stand on those of all pools.
    tolerated = [dict(each) for pool in chosen or pools for each in pool.tolerations]
    pod.spec.tolerations = _unique([*map(_said, pod.spec.tolerations or []), *tolerated])
    return chosen[0] if chosen else pools[0]


def _in_order(platform: Platform) -> list[GpuPool]:
    """All pools, the default one first."""
    return sorted(platform.pools.values(), key=lambda pool: (pool.name != platform.default_pool, pool.name))


def _resources(pod: Any) -> set[str]:
    """The names of the resources that the pod's containers ask for."""
    names: set[str] = set()
    for container in pod.spec.containers:
        resources = container.resources
        if resources is None:
            continue
        read = resources.get if isinstance(resources, Mapping) else lambda key, of=resources: getattr(of, key)
        for kind in ("limits", "requests"):
            names |= set(read(kind) or {})
    return names


def _selects(pod: Any, pool: GpuPool) -> bool:
    return bool(pool.node_selector) and pool.node_selector.items() <= (pod.spec.node_selector or {}).items()


def _unique(tolerations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for number, each in enumerate(tolerations) if each not in tolerations[:number]]


def _mounts(container: Any, path: str) -> bool:
    def path_of(mount: Any) -> Any:
        return mount.get("mountPath") if isinstance(mount, Mapping) else mount.mount_path

    return any(path_of(mount) == path for mount in container.volume_mounts or [])


def _mount_shared_memory(pod: Any, size: str) -> None:
    """A /dev/shm for the first container: the runtime's 64 MiB end data loaders with exit code 135."""
    if not size:
        return
    name, memory = "shared-memory", {"medium": "Memory", "sizeLimit": size}
    pod.spec.volumes = [*(pod.spec.volumes or []), {"name": name, "emptyDir": memory}]
    container = pod.spec.containers[0]
    container.volume_mounts = [*(container.volume_mounts or []), {"name": name, "mountPath": SHARED_MEMORY}]
