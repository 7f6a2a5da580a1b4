"""Publishes the commits of one git repository as directories, for the DAG bundle that reads them.

It is the only process that talks to git. In the directory `--published` it writes

    versions/<commit>/   the files of a commit below `--subdir`, which never change and appear whole
    state.json           version: the newest commit; succeeded: when git last answered; error: of the last
                         try, or ""

Where git does not answer, what is published stays, and the next try follows. `PublishedGitBundle` in the
trainyard library reads all this.

Credentials are files in the directory `--credentials`, read anew for each try: ssh/gitSshKey and
ssh/known_hosts, or credentials/GITSYNC_USERNAME and credentials/GITSYNC_PASSWORD. It uses the standard
library and the program git only.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger("dag-publisher")
REPLACED = "replaced"
"""A file beside the versions' directories: `replaced/<commit>` is as old as the commit's replacement."""
DAY = 24 * 60 * 60
MAX_ERROR = 500  # characters
# git's own hints below the cause.
_NOISE = re.compile(
    r"^(fatal: Could not read from remote repository\.|Please make sure you have|and the repository exists)"
)


class PublishError(Exception):
    """Git did not do what it was asked for; the message holds no secret."""


class Publisher:
    """Publishes one repository.

    Args:
        repo: its URL.
        ref: the branch, tag or full commit to follow.
        subdir: the directory in it that is published; all of it where empty.
        published: the directory to write.
        credentials: the directory with keys or tokens.
        depth: commits to fetch; 0 is all.
        timeout: seconds that a git command may take.
        keep_days: days that a commit stays after it was replaced.
        clone: the private copy of the repository, which may be lost.
    """

    def __init__(
        self,
        *,
        repo: str,
        ref: str,
        subdir: str,
        published: Path,
        credentials: Path,
        depth: int,
        timeout: float,
        keep_days: float,
        clone: Path,
    ) -> None:
        self._repo, self._ref, self._subdir = repo, ref, subdir.strip("/")
        self._published, self._clone = published, clone
        self._versions, self._replaced = published / "versions", published / REPLACED
        self._depth, self._timeout, self._keep = depth, timeout, keep_days * DAY
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(clone),
            "LANG": "C.UTF-8",
            "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSH_COMMAND": _ssh_command(credentials / "ssh"),
            **_git_settings(credentials / "credentials"),
        }
        self._state = self._read_state()
        self._forget_other_subdir()

    def publish(self) -> bool:
        """Try once; tell whether git answered."""
        try:
            version = self._fetch()
            self._export(version)
        except (PublishError, OSError) as error:
            self._report(error=str(error)[:MAX_ERROR])
            return False
        previous = self._state["version"]
        if previous != version:
            if previous:
                self._mark_replaced(previous)
            log.info("published %s", version)
        (self._replaced / version).unlink(missing_ok=True)
        self._report(version=version, succeeded=_now(), error="")
        self._remove_old(version)
        return True

    # ---- git

    def _fetch(self) -> str:
        """Fetch the reference; return its commit."""
        if not (self._clone / "HEAD").is_file():
            self._git("init", "--quiet", "--bare", str(self._clone), inside=False)
        depth = [f"--depth={self._depth}"] if self._depth else []
        self._git(
            "fetch",
            "--quiet",
            "--no-tags",
            "--force",
            "--no-write-commit-graph",
            *depth,
            "--",
            self._repo,
            self._ref,
        )
        return self._git("rev-parse", "--verify", "FETCH_HEAD^{commit}").strip()

    def _export(self, version: str) -> None:
        """Write the files of a commit, unless they are there."""
        target = self._versions / version / self._subdir
        if target.is_dir():
            return
        self._versions.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._published, prefix=".new-") as directory:
            new = Path(directory) / "files"
            new.mkdir()
            where = {"GIT_INDEX_FILE": f"{directory}/index", "GIT_WORK_TREE": str(new)}
            self._git("checkout", "--quiet", "--force", version, "--", self._subdir or ".", more=where)
            exported = new / self._subdir
            if not exported.is_dir():
                raise PublishError(f"{self._subdir} is no directory in commit {version}")
            target.parent.mkdir(parents=True, exist_ok=True)
            exported.rename(target)

    def _git(self, *arguments: str, inside: bool = True, more: Mapping[str, str] | None = None) -> str:
        where = {"GIT_DIR": str(self._clone)} if inside else {}
        try:
            done = subprocess.run(
                ["git", *arguments],
                env={**self._environment, **where, **(more or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._timeout,
            )
        except subprocess.TimeoutExpired:
            raise PublishError(f"git {arguments[0]} took longer than {self._timeout:g} s") from None
        if done.returncode:
            raise PublishError(f"git {arguments[0]}: {_cause(done.stderr)}")
        return done.stdout

    # ---- what is published

    def _report(self, **changes: str) -> None:
        error = changes["error"]
        if error and error != self._state["error"]:
            log.error("%s", error)
        elif self._state["error"] and not error:
            log.info("git answers again")
        self._state |= changes
        self._published.mkdir(parents=True, exist_ok=True)
        new = self._published / ".state.json"
        new.write_text(json.dumps(self._state))
        new.replace(self._published / "state.json")

    def _read_state(self) -> dict[str, str | None]:
        """What the last process of this kind has published; the time starts where there was none."""
        try:
            return dict(json.loads((self._published / "state.json").read_text()))
        except (OSError, ValueError):
            return {"version": None, "succeeded": _now(), "error": "", "subdir": self._subdir}

    def _forget_other_subdir(self) -> None:
        """Start afresh where another directory of the repository was published before."""
        if self._state["subdir"] != self._subdir:
            shutil.rmtree(self._versions, ignore_errors=True)
            self._state |= {"version": None, "subdir": self._subdir}

    def _mark_replaced(self, version: str) -> None:
        self._replaced.mkdir(exist_ok=True)
        (self._replaced / version).touch()

    def _remove_old(self, current: str) -> None:
        """Remove commits that were replaced too long ago, and what an interrupted process left."""
        oldest = time.time() - self._keep
        for mark in self._replaced.glob("*"):
            if mark.name != current and mark.stat().st_mtime < oldest:
                log.info("removing %s", mark.name)
                shutil.rmtree(self._versions / mark.name, ignore_errors=True)
                mark.unlink()
        for left in self._published.glob(".new-*"):
            shutil.rmtree(left, ignore_errors=True)


def _ssh_command(directory: Path) -> str:
    """ssh with the given key only, for hosts whose keys are given only."""
    options = {
        "IdentityFile": directory / "gitSshKey",
        "UserKnownHostsFile": directory / "known_hosts",
        "GlobalKnownHostsFile": os.devnull,
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "ConnectTimeout": "10",
    }
    return shlex.join(["ssh", "-F", os.devnull, *(f"-o{name}={value}" for name, value in options.items())])


def _git_settings(credentials: Path) -> dict[str, str]:
    """git's settings as variables: give up on a stalled transfer, take the token from its file."""
    user, password = (shlex.quote(str(credentials / f"GITSYNC_{name}")) for name in ("USERNAME", "PASSWORD"))
    helper = f'!f() {{ [ "$1" = get ] && [ -f {password} ] || return 0; '
    helper += f'echo "username=$(cat {user})"; echo "password=$(cat {password})"; }}; f'
    settings = {
        "credential.helper": helper,
        "http.lowSpeedLimit": "1000",
        "http.lowSpeedTime": "30",
        "gc.auto": "0",
    }
    variables = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


def _cause(output: str) -> str:
    """The last lines, where ssh and git say what went wrong."""
    lines = [line.strip() for line in output.splitlines()]
    told = [line for line in lines if line and not _NOISE.match(line) and not set(line) <= {"@"}]
    return " | ".join(told[-3:]) or "failed without a message"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def main(arguments: Sequence[str] | None = None) -> None:
    """Publish for ever."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repo", required=True)
    parser.add_argument("--ref", default="HEAD")
    parser.add_argument("--subdir", default="")
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--credentials", type=Path, default=Path("/etc/dag-publisher"))
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=120)
    parser.add_argument("--keep-days", type=float, default=30)
    parser.add_argument("--period", type=float, default=5)
    given = vars(parser.parse_args(arguments))
    period = given.pop("period")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="clone-") as clone:
        publisher = Publisher(**given, clone=Path(clone))
        while True:
            publisher.publish()
            time.sleep(period)


if __name__ == "__main__":
    main()
