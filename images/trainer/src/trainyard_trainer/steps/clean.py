"""Delete what no training needs any more from the checkpoints volume: checkpoints, models and reports.

At the end of a run (`older_than_days` is -1): the directories of a run that finished are deleted, because its
model and report are in MLflow. A run that did not finish keeps, for each training, the checkpoint that a
cleared task resumes from.

As maintenance (`older_than_days` is 0 or more): directories that have not changed for so long are deleted,
except those of a run key that a registered model comes from or that is in training. MLflow knows these; while
it is unavailable, nothing is deleted. MLflow shows a killed run as running forever, so that status only
protects directories that changed within a week.

Only directories directly below --dataset whose names are run keys are considered. Symbolic links are not
followed.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainyard_contract import RUN_KEY, RUN_KEY_SEPARATOR, RUN_KEY_SUFFIX

from trainyard_trainer import lake, log
from trainyard_trainer.context import Context, Result
from trainyard_trainer.errors import storage_error
from trainyard_trainer.run_key_usage import RunKeyUsage

# No process writes to one file for so long: an older temporary file is from a process that was killed.
TEMPORARY_SECONDS = 3600
DAY_SECONDS = 86_400
RUNNING_SECONDS = 7 * DAY_SECONDS  # more than any attempt needs between two checkpoints


def run(context: Context) -> Result:
    """Clean the directory --dataset, and return how much was removed and kept."""
    cleaner = Cleaner(lake.local_path(context.dataset), dry_run=context.params["dry_run"])
    if context.params["older_than_days"] >= 0:
        cleaner.remove_old(context.params["older_than_days"], RunKeyUsage(context.settings))
    elif context.params["finished"]:
        cleaner.remove_run(context.run_key)
    else:
        cleaner.remove_superseded(context.run_key)
    return cleaner.result


class Cleaner:
    """Removes from a directory whose subdirectories are named after run keys; `result` counts."""

    def __init__(self, root: Path, *, dry_run: bool) -> None:
        self._root = root
        self._dry_run = dry_run
        self.result: dict[str, Any] = {
            **dict.fromkeys(("removed", "removed_files", "removed_bytes"), 0),
            **dict.fromkeys(("kept", "kept_registered", "kept_running"), 0),
            "dry_run": dry_run,
        }

    def remove_run(self, run_key: str) -> None:
        """Remove the directories of a run and of its mapped trainings."""
        for directory in self._of_run(run_key):
            self._remove_tree(directory, "finished")

    def remove_superseded(self, run_key: str) -> None:
        """Remove the superseded checkpoints of a run and of its mapped trainings, and nothing else."""
        from trainyard_trainer.checkpoint import superseded  # imports torch, which takes seconds

        for directory in self._of_run(run_key):
            for path in superseded(directory):
                self._remove_file(path, "superseded")
            self._remove_temporary(directory)
            self.result["kept"] += 1

    def remove_old(self, days: float, usage: RunKeyUsage) -> None:
        """Remove directories that have not changed for `days`, unless they are in use according to MLflow."""
        registered = usage.registered()
        for directory in self._directories():
            age = _age(directory)
            if age < days * DAY_SECONDS:
                kept = "kept"
            elif _belongs(directory.name, registered):
                kept = "kept_registered"
            elif age < RUNNING_SECONDS and usage.is_running(directory.name):
                kept = "kept_running"
            else:
                self._remove_tree(directory, "old")
                continue
            self._remove_temporary(directory)
            self.result[kept] += 1
            if kept != "kept":
                log.event(kept, path=str(directory))

    def _of_run(self, run_key: str) -> Iterator[Path]:
        # A key that was shortened is not found here; the maintenance removes its directory.
        for directory in self._directories():
            head, suffix = directory.name[: len(run_key)], directory.name[len(run_key) :]
            if head == run_key and (not suffix or RUN_KEY_SUFFIX.fullmatch(suffix)):
                yield directory

    def _directories(self) -> list[Path]:
        try:
            with os.scandir(self._root) as entries:
                found = [
                    one.name for one in entries if one.is_dir(follow_symlinks=False) and _is_accessible(one)
                ]
        except FileNotFoundError:
            return []  # nothing was written yet
        except OSError as error:
            raise storage_error("listing", self._root, error) from error
        return [self._root / name for name in sorted(found) if RUN_KEY.fullmatch(name)]

    def _remove_temporary(self, directory: Path) -> None:
        for path in _files(directory):
            if path.name.startswith(lake.TEMPORARY_PREFIX) and _age(path) > TEMPORARY_SECONDS:
                self._remove_file(path, "temporary")

    def _remove_tree(self, directory: Path, why: str) -> None:
        files = list(_files(directory))
        size = sum(map(_size, files))
        self._remove(directory, why, size, lambda: shutil.rmtree(directory, onerror=_ignore_missing))
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


def _is_accessible(directory: os.DirEntry[str]) -> bool:
    """Whether its files can be removed, unlike those of a volume's lost+found."""
    return os.access(directory.path, os.R_OK | os.W_OK | os.X_OK)


def _belongs(name: str, run_keys: set[str]) -> bool:
    """Whether a directory belongs to one of the run keys, or to a trial or mapped training of one."""
    parts = name.split(RUN_KEY_SEPARATOR)
    keys = (RUN_KEY_SEPARATOR.join(parts[:number]) for number in range(1, len(parts) + 1))
    return any(key in run_keys for key in keys)


def _files(directory: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(directory):  # does not follow links
        yield from (Path(folder, name) for name in names)


def _age(path: Path) -> float:
    """Return the seconds since the last change at or below the path; 0 while it is being removed."""
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


def _ignore_missing(function: Any, path: str, info: Any) -> None:
    """Let rmtree ignore files that another process has removed."""
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]
