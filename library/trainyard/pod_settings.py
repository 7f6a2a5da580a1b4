"""What the values add to training pods and model servers (`training.pod`, `serving.pod`, a pool's `pod`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True)
class PodSettings:
    """Fields of a pod and its container in Kubernetes' own words and shapes; sizes are quantities (4Gi).

    `scratch_size` limits /tmp, and `shared_memory_size` /dev/shm, which is the container runtime's own
    (64 MiB) where it is empty.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    env: tuple[Json, ...] = ()
    env_from: tuple[Json, ...] = ()
    extra_volumes: tuple[Json, ...] = ()
    extra_volume_mounts: tuple[Json, ...] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    affinity: Json = field(default_factory=dict)
    tolerations: tuple[Json, ...] = ()
    topology_spread_constraints: tuple[Json, ...] = ()
    runtime_class_name: str = ""
    scratch_size: str = ""
    shared_memory_size: str = ""

    def merged(self, over: PodSettings) -> PodSettings:
        """Return these with `over`: maps are merged by key, lists joined, texts replaced."""
        both = {each.name: (getattr(self, each.name), getattr(over, each.name)) for each in fields(self)}
        return PodSettings(**{name: _merged(*values) for name, values in both.items()})

    def placement(self) -> dict[str, Any]:
        """Return the fields of a pod's spec that say where it runs; those that are empty are left out."""
        spec = {
            "nodeSelector": dict(self.node_selector),
            "affinity": dict(self.affinity),
            "tolerations": list(self.tolerations),
            "topologySpreadConstraints": list(self.topology_spread_constraints),
            "runtimeClassName": self.runtime_class_name,
        }
        return {name: value for name, value in spec.items() if value}

    def environment(self, before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, Any]:
        """Return `env` and `envFrom`. Of entries with one name the last counts: `before`, these, `after`."""
        entries = {entry["name"]: entry for entry in (*_entries(before), *self.env, *_entries(after))}
        source = {"envFrom": list(self.env_from)} if self.env_from else {}
        return {"env": list(entries.values()), **source}

    def volumes(self) -> list[Json]:
        """Return the pod's volumes: /tmp, /dev/shm and those of the values."""
        shared = {"medium": "Memory", "sizeLimit": self.shared_memory_size}
        return [
            {"name": "tmp", "emptyDir": {"sizeLimit": self.scratch_size} if self.scratch_size else {}},
            *([{"name": "shm", "emptyDir": shared}] if self.shared_memory_size else []),
            *self.extra_volumes,
        ]

    def volume_mounts(self) -> list[Json]:
        """Return the container's mounts of `volumes`."""
        return [
            {"name": "tmp", "mountPath": "/tmp"},
            *([{"name": "shm", "mountPath": "/dev/shm"}] if self.shared_memory_size else []),
            *self.extra_volume_mounts,
        ]


def _merged(base: Any, over: Any) -> Any:
    if isinstance(base, Mapping):
        return {**base, **over}
    if isinstance(base, tuple):
        return (*base, *over)
    return over or base


def _entries(env: Mapping[str, str]) -> Iterable[Json]:
    return ({"name": name, "value": str(value)} for name, value in env.items())
