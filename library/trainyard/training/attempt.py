"""The state of one attempt within a try, and which attempt follows an outcome.

The state is an annotation of the pod, so that a restarted triggerer continues where the last one stopped: it
neither repeats the single retry after an out-of-memory error nor loses the number of reclaims.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from trainyard.failures import Cause
from trainyard.naming import ATTEMPT, LABEL_PREFIX
from trainyard.training.outcomes import Action, Outcome

ANNOTATION = f"{LABEL_PREFIX}/attempt-state"
ON_OOM = ("memory", "batch", "fail")
FALLBACKS = (None, "cpu")


@dataclass(frozen=True)
class RetryPlan:
    """Which attempts may follow the first one within a try.

    Args:
        max_preemptions: the number of new attempts after reclaims, evictions and lost nodes.
        on_oom: `memory` (once with twice the memory), `batch` (once with half the batch) or `fail`.
        escalate_to: GPU pool of the attempts after `escalate_after` reclaims; None keeps the pool.
        fallback: `cpu` runs on a CPU if no GPU is free for `fallback_after_seconds`; None keeps waiting.

    Raises:
        ValueError: an argument is invalid.
    """

    max_preemptions: int = 5
    on_oom: str = "memory"
    escalate_to: str | None = None
    escalate_after: int = 2
    fallback: str | None = None
    fallback_after_seconds: float = 1800

    def __post_init__(self) -> None:
        """Validate the arguments."""
        _check_choice("on_oom", self.on_oom, ON_OOM)
        _check_choice("fallback", self.fallback, FALLBACKS)
        _check_minimum("max_preemptions", self.max_preemptions, 0)
        _check_minimum("escalate_after", self.escalate_after, 1)
        _check_minimum("fallback_after", self.fallback_after_seconds, 0)


@dataclass(frozen=True)
class Attempt:
    """One attempt: number 1, 2, ... of the try.

    `fallback` is `cpu` if it runs on a CPU for want of a GPU; `avoided` are nodes with a broken GPU.
    """

    number: int = 1
    gpu_pool: str | None = None
    memory_factor: int = 1
    batch_divisor: int = 1
    reclaims: int = 0
    ooms: int = 0
    fallback: str = ""
    avoided: tuple[str, ...] = ()

    def annotation(self) -> str:
        """The attempt as the value of the pod's annotation.

        What is as in a first attempt is left out, so that an older release after a rollback reads the rest.
        """
        first = asdict(Attempt())
        told = {name: value for name, value in asdict(self).items() if value != first[name]}
        return json.dumps(told, sort_keys=True)

    @classmethod
    def of_pod(cls, pod: Mapping[str, Any]) -> Attempt:
        """The attempt of this pod; pods of older releases have only the labels."""
        labels, annotations = pod["metadata"]["labels"], pod["metadata"].get("annotations", {})
        pool = labels.get(f"{LABEL_PREFIX}/gpu-pool", "none")
        from_labels = {
            "number": int(labels[ATTEMPT]),
            "gpu_pool": None if pool == "none" else pool,
        }
        known = {each.name for each in fields(cls)}  # a newer release may have told more
        told = {
            key: value for key, value in json.loads(annotations.get(ANNOTATION, "{}")).items() if key in known
        }
        found = cls(**{**from_labels, **told})
        return replace(found, avoided=tuple(found.avoided))

    def after(self, outcome: Outcome, plan: RetryPlan) -> Attempt | None:
        """The attempt that follows `outcome`; None if this one was the last of the try."""
        if outcome.action is Action.RELAUNCH and self.reclaims < plan.max_preemptions:
            return self._relaunched(plan, outcome)
        if outcome.action is Action.ADAPT and not self.ooms and plan.on_oom != "fail":
            # More memory for the pod does not help a GPU without memory left.
            if plan.on_oom == "batch" or outcome.cause is Cause.GPU_OOM:
                return self._next(ooms=1, batch_divisor=2 * self.batch_divisor)
            return self._next(ooms=1, memory_factor=2 * self.memory_factor)
        return None

    def on_cpu(self) -> Attempt:
        """The attempt that runs on a CPU for want of a GPU: smaller batches need less memory."""
        return self._next(gpu_pool=None, fallback="cpu", batch_divisor=2 * self.batch_divisor)

    def _relaunched(self, plan: RetryPlan, outcome: Outcome) -> Attempt:
        reclaims = self.reclaims + 1
        escalates = bool(self.gpu_pool and plan.escalate_to) and reclaims >= plan.escalate_after
        pool = plan.escalate_to if escalates else self.gpu_pool
        broken = (outcome.node,) if outcome.cause is Cause.GPU_FAULT and outcome.node else ()
        # Nodes of one pool say nothing to another.
        avoided = tuple(dict.fromkeys((*self.avoided, *broken))) if pool == self.gpu_pool else ()
        return self._next(reclaims=reclaims, gpu_pool=pool, avoided=avoided)

    def _next(self, **changes: Any) -> Attempt:
        return replace(self, number=self.number + 1, **changes)

    def __str__(self) -> str:
        """The attempt as text, for the log."""
        parts = [f"attempt {self.number}", f"GPU pool {self.gpu_pool}" if self.gpu_pool else "CPU"]
        if self.memory_factor > 1:
            parts.append(f"{self.memory_factor} times the memory")
        if self.batch_divisor > 1:
            parts.append(f"batches in {self.batch_divisor} parts")
        if self.avoided:
            parts.append(f"not on {', '.join(self.avoided)}")
        return ", ".join(parts)


def _check_choice(name: str, value: Any, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; use {' or '.join(map(repr, choices))}")


def _check_minimum(name: str, value: Any, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < minimum:
        raise ValueError(f"{name} is {value!r}; use a number of at least {minimum}")
