"""What one attempt of a try differs in from the first, and what the next attempt is after an outcome.

It is kept as an annotation of the pod, so that a triggerer that restarts goes on where the last one was: it
neither repeats the one retry that an out-of-memory error gets nor forgets how often a node was reclaimed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from trainyard.failures import Cause
from trainyard.naming import LABEL_PREFIX
from trainyard.training.outcomes import Action, Outcome

ANNOTATION = f"{LABEL_PREFIX}/attempt-state"
ON_OOM = ("memory", "batch", "fail")
FALLBACKS = (None, "cpu")


@dataclass(frozen=True)
class RetryPlan:
    """What a task wants to happen within one try.

    Args:
        max_preemptions: how many reclaims, evictions and lost nodes are made up for.
        on_oom: `memory` (once with twice the memory), `batch` (once with half the batch) or `fail`.
        escalate_to: GPU pool of the attempts after `escalate_after` reclaims; None stays in the pool.
        fallback: `cpu` runs on a CPU when no GPU is there for `fallback_after_seconds`; None waits on.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    max_preemptions: int = 5
    on_oom: str = "memory"
    escalate_to: str | None = None
    escalate_after: int = 2
    fallback: str | None = None
    fallback_after_seconds: float = 1800

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        _one_of("on_oom", self.on_oom, ON_OOM)
        _one_of("fallback", self.fallback, FALLBACKS)
        _number("max_preemptions", self.max_preemptions, 0)
        _number("escalate_after", self.escalate_after, 1)
        _number("fallback_after", self.fallback_after_seconds, 0)


@dataclass(frozen=True)
class Attempt:
    """One attempt: number 1, 2, ... of the try. `fallback` is `cpu` once the GPU was given up."""

    number: int = 1
    gpu_pool: str | None = None
    memory_factor: int = 1
    batch_divisor: int = 1
    reclaims: int = 0
    ooms: int = 0
    fallback: str = ""

    def annotation(self) -> str:
        """The attempt as the pod's annotation."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def of_pod(cls, pod: Mapping[str, Any]) -> Attempt:
        """The attempt that the pod was made for; its labels tell as much as an older release wrote."""
        labels, annotations = pod["metadata"]["labels"], pod["metadata"].get("annotations", {})
        pool = labels.get(f"{LABEL_PREFIX}/gpu-pool", "none")
        known = {
            "number": int(labels[f"{LABEL_PREFIX}/attempt"]),
            "gpu_pool": None if pool == "none" else pool,
        }
        return cls(**{**known, **json.loads(annotations.get(ANNOTATION, "{}"))})

    def after(self, outcome: Outcome, plan: RetryPlan) -> Attempt | None:
        """The attempt that follows `outcome`; None when this one was the try's last."""
        if outcome.action is Action.RELAUNCH and self.reclaims < plan.max_preemptions:
            return self._relaunched(plan)
        if outcome.action is Action.ADAPT and not self.ooms and plan.on_oom != "fail":
            # Memory of the GPU does not grow with the pod's.
            if plan.on_oom == "batch" or outcome.cause is Cause.GPU_OOM:
                return self._next(ooms=1, batch_divisor=2 * self.batch_divisor)
            return self._next(ooms=1, memory_factor=2 * self.memory_factor)
        return None

    def on_cpu(self) -> Attempt:
        """The attempt that runs on a CPU because there is no GPU: smaller batches need less memory."""
        return self._next(gpu_pool=None, fallback="cpu", batch_divisor=2 * self.batch_divisor)

    def _relaunched(self, plan: RetryPlan) -> Attempt:
        reclaims = self.reclaims + 1
        escalates = bool(self.gpu_pool and plan.escalate_to) and reclaims >= plan.escalate_after
        return self._next(reclaims=reclaims, gpu_pool=plan.escalate_to if escalates else self.gpu_pool)

    def _next(self, **changes: Any) -> Attempt:
        return replace(self, number=self.number + 1, **changes)

    def __str__(self) -> str:
        """In words, for the log."""
        words = [f"attempt {self.number}", f"GPU pool {self.gpu_pool}" if self.gpu_pool else "CPU"]
        if self.memory_factor > 1:
            words.append(f"{self.memory_factor} times the memory")
        if self.batch_divisor > 1:
            words.append(f"batches in {self.batch_divisor} parts")
        return ", ".join(words)


def _one_of(name: str, value: Any, known: tuple[str | None, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; use {' or '.join(map(repr, known))}")


def _number(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
        raise ValueError(f"{name} is {value!r}; use a number of at least {least}")
