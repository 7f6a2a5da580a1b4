"""What a try leaves in the cluster: Jobs with their pods, and pods on their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainyard.kube.jobs import JobKube
from trainyard.kube.status import condition, has_owner
from trainyard.training import outcomes


async def delete_leftovers(kube: JobKube, selector: str, *, keep: bool = False) -> None:
    """Delete the Jobs and pods that match a label selector; `keep` those that have ended, for inspection."""
    for job in await kube.jobs(selector):
        if not (keep and has_ended(job)):
            await kube.delete_job(job["metadata"]["name"])
    for pod in await kube.find(selector):
        # A waiting pod that is not deleted would get a GPU later and waste it.
        if not has_owner(pod, "Job") and not (keep and has_ended(pod)):
            await kube.delete(pod["metadata"]["name"])


def has_ended(found: Mapping[str, Any]) -> bool:
    """Whether a pod has ended, or a Job makes no more pods."""
    if "containers" in found["spec"]:
        return outcomes.has_ended(found)
    return any(condition(found, kind).get("status") == "True" for kind in ("Complete", "Failed"))
