"""What names an object of Kubernetes."""

from __future__ import annotations

from typing import Any, NamedTuple

Json = dict[str, Any]


class Identity(NamedTuple):
    """What tells an object from all others of a cluster; ``namespace`` is "" where it is in none."""

    kind: str
    namespace: str
    name: str
    group: str

    @classmethod
    def of(cls, one: Json, namespace: str = "") -> Identity:
        """Return that of an object; ``namespace`` is where it goes when it names none itself."""
        group, metadata = one["apiVersion"].rpartition("/")[0], one["metadata"]
        return cls(one["kind"], metadata.get("namespace", namespace), metadata["name"], group)

    @property
    def title(self) -> str:
        """Return how the object is called in a line."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"
