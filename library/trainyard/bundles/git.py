"""`PublishedGitBundle`: the commits of a git repository that the DAG publisher has written.

The publisher (images/dag-publisher) alone talks to git. It writes on a volume, which is read-only here:

    state.json          version (the newest commit), succeeded (when git last answered), error (since then)
    versions/<commit>/  the files of a commit

The version is the commit. A worker pod needs no git, no key and no network for it.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.base import BaseDagBundle, BundleVersion

from trainyard.airflow_compat import in_worker_pod

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """What the publisher says: the newest commit, when it last spoke to git, and what then failed."""

    version: str | None
    succeeded: datetime
    error: str


class PublishedGitBundle(BaseDagBundle):
    """The DAG files of a git repository, as the DAG publisher writes them.

    Args:
        published: the directory that the publisher writes.
        subdir: the DAG folder in the repository.
        alert_after: seconds without a successful fetch after which an alert is sent.
    """

    supports_versioning = True

    def __init__(self, *, published: str, subdir: str = "", alert_after: float = 600, **options: Any) -> None:
        super().__init__(**options)
        self.subdir = subdir
        self._published = Path(published)
        self._alert_after = timedelta(seconds=alert_after)
        # A link of this process rather than the commit's directory: a file that waits to be parsed when a new
        # commit arrives must be parsed in the new one, whose version the result gets.
        self._link = self.base_dir / "current"
        self._current: str | None = None
        self._since = datetime.now(UTC)
        self._alerted = False

    def initialize(self) -> None:
        """Find the commit of `version`, without one the newest.

        Raises:
            RuntimeError: it is not on the volume.
        """
        if self.version and not self._directory(self.version).is_dir():
            self._without_version()
        if not self.version:
            self._follow()
        super().initialize()

    def _without_version(self) -> None:
        """A run's commit is gone: an error for a task, while a callback takes the newest commit."""
        message = f"commit {self.version} of bundle {self.name} is not under {self._published} any more"
        if in_worker_pod():
            raise RuntimeError(
                f"{message}, as it was replaced longer ago than airflow.dags.git.keepDays. Clear the task "
                "with 'run with latest version', or raise keepDays for runs that take so long."
            )
        log.warning("%s: the newest commit is used", message)
        self.version = None

    @property
    def path(self) -> Path:
        """The DAG folder."""
        return (self._directory(self.version) if self.version else self._link) / self.subdir

    def get_current_version(self) -> BundleVersion | None:
        """The commit that `path` has, or would have."""
        version = self.version or self._current or self._state().version
        return BundleVersion(version) if version else None

    def refresh(self) -> None:
        """Go on to the newest commit; send an alert when the publisher has been failing for long.

        Raises:
            RuntimeError: this is a bundle of one version, or nothing has been published.
        """
        if self.version:
            raise RuntimeError(f"bundle {self.name} of commit {self.version} cannot be refreshed")
        self._follow()

    def _follow(self) -> None:
        state = self._state()
        self._watch(state)
        if not state.version:
            why = state.error or "the DAG publisher has not run"
            raise RuntimeError(f"no commit of bundle {self.name} has been published: {why}")
        if state.version != self._current:
            self.base_dir.mkdir(parents=True, exist_ok=True)
            new = self._link.with_name(f"new-{os.getpid()}")
            new.unlink(missing_ok=True)
            new.symlink_to(self._directory(state.version))
            new.replace(self._link)
            self._current = state.version

    def _watch(self, state: Published) -> None:
        """Send an alert once in each outage, and another one when it is over."""
        from trainyard.alerts.alert import Alert
        from trainyard.alerts.receivers import send

        failing = datetime.now(UTC) - state.succeeded > self._alert_after
        if failing == self._alerted:
            return
        self._alerted = failing
        key = f"dag-bundle/{self.name}"
        details = {"bundle": self.name, "version": state.version}
        if failing:
            error = state.error or "the DAG publisher does not report"
            goes_on = f"The DAGs of commit {state.version} go on." if state.version else "It has no DAGs."
            log.error("bundle %s has not been updated since %s: %s", self.name, state.succeeded, error)
            title = f"DAG bundle {self.name} does not follow its git repository"
            text = f"since {state.succeeded:%Y-%m-%d %H:%M} UTC: {error}\n{goes_on}"
            send(Alert("warning", title, text, details, key=key))
        else:
            log.info("bundle %s is updated again", self.name)
            send(
                Alert(
                    "info", f"DAG bundle {self.name} follows its git repository again", "", details, key=key
                )
            )

    def _directory(self, version: str) -> Path:
        return self._published / "versions" / version

    def _state(self) -> Published:
        try:
            state = json.loads((self._published / "state.json").read_text())
        except FileNotFoundError:
            return Published(None, self._since, "")
        return Published(state["version"], datetime.fromisoformat(state["succeeded"]), state["error"])
