"""`WaitForObjectTrigger`: looks for an object from time to time, for `WaitForObjectOperator`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from trainyard.failures import Cause, TaskFailed
from trainyard.triggerer.base import TriggererTask


class WaitForObjectTrigger(TriggererTask):
    """Wait until the object is there.

    Args:
        request: `uri`, `connection`, `patience_seconds` and `poll_seconds` of the operator.
    """

    has_lineage = False  # it only looks whether there is something to read

    async def work(self) -> None:
        """Look until the object is there, or until the patience is over."""
        bucket, key = self._place()
        until = self._until()
        hook = await asyncio.to_thread(_hook, self.request["connection"])
        async with await hook.get_async_conn() as client:
            while not await hook.check_key_async(client, bucket, key, wildcard_match=False):
                if datetime.now(UTC) > until:
                    patience = timedelta(seconds=self.request["patience_seconds"])
                    message = f"{self.request['uri']} is not there, {patience} after the run began"
                    raise TaskFailed(Cause.DEADLINE, message)
                self.log.info("waiting: %s is not there yet", self.request["uri"])
                await asyncio.sleep(self.request["poll_seconds"])
        self.log.info("%s is there", self.request["uri"])

    def _place(self) -> tuple[str, str]:
        """The object's bucket and key."""
        parts = urlsplit(str(self.request["uri"]))
        if parts.scheme != "s3" or not parts.netloc or not parts.path.strip("/"):
            raise ValueError(f"uri is {self.request['uri']!r}; use s3://BUCKET/KEY")
        return parts.netloc, parts.path.removeprefix("/")

    def _until(self) -> datetime:
        """When the patience is over. A restart of the triggerer does not prolong it."""
        began: datetime = self.context["dag_run"].start_date or datetime.now(UTC)
        return began + timedelta(seconds=self.request["patience_seconds"])


def _hook(connection: str) -> Any:
    """Airflow's client of object stores; its import takes long, and would block other triggers."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    return S3Hook(aws_conn_id=connection)
