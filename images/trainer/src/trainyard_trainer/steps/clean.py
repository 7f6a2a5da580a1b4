"""Give back the space of what no training will come back to: checkpoints, models and reports on the volume.

After a run (`older_than_days` is -1): the directories of one that finished go: its model and its report are
in MLflow. One that did not finish keeps, for each training, the checkpoint that a cleared task resumes from.

From time to time (`older_than_days` from 0 on): what has not changed for so long goes, whoever left it, but
nothing of a run key that a registered model comes from or that is in training. What belongs to whom, MLflow
says; while it does not answer, nothing is removed. Of what was killed it says for ever that it is running:
after a week without a change that does not count.

Only directories named like run keys, right below --dataset, are looked at, and no symbolic link is followed.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainyard_trainer import lake, log
from trainyard_trainer.context import Context, Result
from trainyard_trainer.errors import storage_error
from trainyard_trainer.run_keys import RunKeys
from trainyard_trainer.settings import RUN_KEY

# Nobody writes for so long on one file: what is older was left by a process that was killed.
TEMPORARY_SECONDS = 3600
DAY_SECONDS = 86_400
RUNNING_SECONDS = 7 * DAY_SECONDS  # longer than any attempt goes without a checkpoint


def run(context: Context) -> Result:
    """Clean the directory --dataset, and return how much was removed and what was kept."""
    cleaner = Cleaner(lake.local_path(context.dataset), dry_run=context.params["dry_run"])
    if context.params["older_than_days"] >= 0:
        cleaner.remove_old(context.params["older_than_days"], RunKeys(context.settings))
    elif context.params["finished"]:
        cleaner.remove_run(context.run_key)
    else:
        cleaner.thin_out(context.run_key)
    return cleaner.result


class Cleaner:
    """Removes from one directory, whose subdirectories are named after run keys; `result` counts."""

    def __init__(self, root: Path, *, dry_run: bool) -> None:
        self._root = root
        self._dry_run = dry_run
        self.result: dict[str, Any] = {
            **dict.fromkeys(("removed", "removed_files", "removed_bytes"), 0),
            **dict.fromkeys(("kept", "kept_registered", "kept_running"), 0),
            "dry_run": dry_run,
        }

    def remove_run(self, run_key: str) -> None:
        """Remove what a run and its mapped trainings left."""
        for directory in self._of_run(run_key):
            self._remove_tree(directory, "finished")

    def thin_out(self, run_key: str) -> None:
        """Leave a run and its mapped trainings the checkpoints to resume from, and what else they wrote."""
        from trainyard_trainer.checkpoint import superseded  # with torch, which takes seconds

        for directory in self._of_run(run_key):
            for path in superseded(directory):
                self._remove_file(path, "superseded")
            self._remove_temporary(directory)
            self.result["kept"] += 1

    def remove_old(self, days: float, run_keys: RunKeys) -> None:
        """Remove what has not changed for `days`, unless MLflow says that somebody needs it."""
        registered = run_keys.registered()
        for directory in self._directories():
            age = _age(directory)
            if age < days * DAY_SECONDS:
                kept = "kept"
            elif _belongs(directory.name, registered):
                kept = "kept_registered"
            elif age < RUNNING_SECONDS and run_keys.is_running(directory.name):
                kept = "kept_running"
            else:
                self._remove_tree(directory, "old")
                continue
            self._remove_temporary(directory)
            self.result[kept] += 1
            if kept != "kept":
                log.event(kept, path=str(directory))

    def _of_run(self, run_key: str) -> Iterator[Path]:
        # Trials are KEY__trial-3, mapped tasks KEY__TASK-3. A key that had to be cut is not found here, and
        # left to the maintenance.
        of_run = re.compile(re.escape(run_key) + r"(__[A-Za-z0-9_.]+-[0-9]+)?")
        return (directory for directory in self._directories() if of_run.fullmatch(directory.name))

    def _directories(self) -> list[Path]:
        try:
            with os.scandir(self._root) as entries:
                found = [one.name for one in entries if one.is_dir(follow_symlinks=False) and _is_ours(one)]
        except FileNotFoundError:
            return []  # nothing was ever written
        except OSError as error:
            raise storage_error("looking for what to remove in", self._root, error) from error
        return [self._root / name for name in sorted(found) if RUN_KEY.fullmatch(name)]

    def _remove_temporary(self, directory: Path) -> None:
        for path in _files(directory):
            if path.name.startswith(lake.TEMPORARY_PREFIX) and _age(path) > TEMPORARY_SECONDS:
                self._remove_file(path, "temporary")

    def _remove_tree(self, directory: Path, why: str) -> None:
        files = list(_files(directory))
        size = sum(map(_size, files))
        self._remove(directory, why, size, lambda: shutil.rmtree(directory, onerror=_unless_gone))
        self.result["removed"] += 1
        self.result["removed_files"] += len(files)

    def _remove_file(self, path: Path, why: str) -> None:
        self._remove(path, why, _size(path), lambda: path.unlink(missing_ok=True))
        self.result["removed_files"] += 1

    def _remove(self, path: Path, why: str, size: int, remove: Callable[[], None]) -> None:
        log.event("would_remove" if self._dry_run else "removed", path=str(path), why=why, bytes=size)
        if not self._dry_run:
            try:
                remove()
            except OSError as error:
                raise storage_error("removing", path, error) from error
        self.result["removed_bytes"] += size


def _is_ours(directory: os.DirEntry[str]) -> bool:
    """Whether it can be emptied: a volume's lost+found cannot."""
    return os.access(directory.path, os.R_OK | os.W_OK | os.X_OK)


def _belongs(name: str, run_keys: set[str]) -> bool:
    """Whether a directory is a run key's or that of one of its trials, which all count as needed then."""
    parts = name.split("__")
    return any("__".join(parts[:number]) in run_keys for number in range(1, len(parts) + 1))


def _files(directory: Path) -> Iterator[Path]:
    for place, _, names in os.walk(directory):  # does not follow links
        yield from (Path(place, name) for name in names)


def _age(path: Path) -> float:
    """Seconds since the newest change at or below the path; 0 for what is being removed right now."""
    newest = 0.0
    for one in (path, *_files(path)):
        try:
            newest = max(newest, one.lstat().st_mtime)
        except FileNotFoundError:
            return 0.0
    return time.time() - newest


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _unless_gone(function: Any, path: str, info: Any) -> None:
    """For rmtree: what somebody else removes meanwhile is no error."""
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]
