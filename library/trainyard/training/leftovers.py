"""What a try leaves in the cluster: Jobs with their pods, and pods on their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainyard.kube.jobs import JobKube
from trainyard.kube.status import condition, has_owner
from trainyard.training import outcomes


async def delete_leftovers(kube: JobKube, selector: str, *, keep: bool = False) -> None:
    """Delete the Jobs and pods that match a label selector; `keep` those that have ended, for inspection."""
    for found in (*await kube.jobs(selector), *await kube.find(selector)):
        # A waiting pod that is not deleted would get a GPU later and waste it.
        if not has_owner(found, "Job") and not (keep and has_ended(found)):
            await delete(kube, found)


async def delete(kube: JobKube, found: Mapping[str, Any]) -> None:
    """Delete a Job with its pods, or a pod."""
    name = found["metadata"]["name"]
    await (kube.delete(name) if is_pod(found) else kube.delete_job(name))


def has_ended(found: Mapping[str, Any]) -> bool:
    """Whether a pod has ended, or a Job makes no more pods."""
    if is_pod(found):
        return outcomes.has_ended(found)
    return any(condition(found, kind).get("status") == "True" for kind in ("Complete", "Failed"))


def is_pod(found: Mapping[str, Any]) -> bool:
    """Whether it is a pod, and not a Job: what is in a list says no kind."""
    return "containers" in found["spec"]
