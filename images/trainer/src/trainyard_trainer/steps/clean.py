"""Delete what no training needs any more of the checkpoints, on a volume or in an object store: checkpoints,
models and reports.

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

import time
from collections.abc import Callable, Iterator
from typing import Any

from trainyard_contract import RUN_KEY, RUN_KEY_SEPARATOR, RUN_KEY_SUFFIX

from trainyard_trainer import log, storage
from trainyard_trainer.checkpoint_files import superseded
from trainyard_trainer.context import Context, Result
from trainyard_trainer.errors import storage_error
from trainyard_trainer.run_key_usage import RunKeyUsage
from trainyard_trainer.storage import Directory, File

# No process writes to one file for so long: an older temporary file is from a process that was killed.
TEMPORARY_SECONDS = 3600
DAY_SECONDS = 86_400
RUNNING_SECONDS = 7 * DAY_SECONDS  # more than any attempt needs between two checkpoints


def run(context: Context) -> Result:
    """Clean the directory --dataset, and return how much was removed and kept."""
    cleaner = Cleaner(storage.directory(context.dataset), dry_run=context.params["dry_run"])
    try:
        _clean(cleaner, context)
    except OSError as error:
        raise storage_error("cleaning", context.dataset, error) from error
    return cleaner.result


def _clean(cleaner: "Cleaner", context: Context) -> None:
    if context.params["older_than_days"] >= 0:
        cleaner.remove_old(context.params["older_than_days"], RunKeyUsage(context.settings))
    elif context.params["finished"]:
        cleaner.remove_run(context.run_key)
    else:
        cleaner.remove_superseded(context.run_key)


class Cleaner:
    """Removes from a directory whose subdirectories are named after run keys; `result` counts."""

    def __init__(self, root: Directory, *, dry_run: bool) -> None:
        self._root = root
        self._dry_run = dry_run
        self.result: dict[str, Any] = {
            **dict.fromkeys(("removed", "removed_files", "removed_bytes"), 0),
            **dict.fromkeys(("kept", "kept_registered", "kept_running"), 0),
            "dry_run": dry_run,
        }

    def remove_run(self, run_key: str) -> None:
        """Remove the directories of a run and of its mapped trainings."""
        for directory, _ in self._of_run(run_key):
            self._remove_tree(directory, "finished")

    def remove_superseded(self, run_key: str) -> None:
        """Remove the superseded checkpoints of a run and of its mapped trainings, and nothing else."""
        for directory, _ in self._of_run(run_key):
            old = set(superseded(directory))
            for one in directory.files():
                if one.name in old:
                    self._remove_file(directory, one, "superseded")
            self._remove_temporary(directory)
            self.result["kept"] += 1

    def remove_old(self, days: float, usage: RunKeyUsage) -> None:
        """Remove directories that have not changed for `days`, unless they are in use according to MLflow."""
        registered = usage.registered()
        for directory, name in self._directories():
            age = directory.age()
            if age < days * DAY_SECONDS:
                kept = "kept"
            elif _belongs(name, registered):
                kept = "kept_registered"
            elif age < RUNNING_SECONDS and usage.is_running(name):
                kept = "kept_running"
            else:
                self._remove_tree(directory, "old")
                continue
            self._remove_temporary(directory)
            self.result[kept] += 1
            if kept != "kept":
                log.event(kept, path=str(directory))

    def _of_run(self, run_key: str) -> Iterator[tuple[Directory, str]]:
        # A key that was shortened is not found here; the maintenance removes its directory.
        for directory, name in self._directories():
            head, suffix = name[: len(run_key)], name[len(run_key) :]
            if head == run_key and (not suffix or RUN_KEY_SUFFIX.fullmatch(suffix)):
                yield directory, name

    def _directories(self) -> list[tuple[Directory, str]]:
        """Return the directories that are named after run keys, with their names."""
        return [(self._root / name, name) for name in self._root.directories() if RUN_KEY.fullmatch(name)]

    def _remove_temporary(self, directory: Directory) -> None:
        for one in directory.files():
            is_temporary = one.name.rpartition("/")[2].startswith(storage.TEMPORARY_PREFIX)
            if is_temporary and time.time() - one.modified > TEMPORARY_SECONDS:
                self._remove_file(directory, one, "temporary")

    def _remove_tree(self, directory: Directory, why: str) -> None:
        files = directory.files()
        self._remove(str(directory), why, sum(one.bytes for one in files), directory.remove_all)
        self.result["removed"] += 1
        self.result["removed_files"] += len(files)

    def _remove_file(self, directory: Directory, one: File, why: str) -> None:
        self._remove(directory.place(one.name), why, one.bytes, lambda: directory.remove(one.name))
        self.result["removed_files"] += 1

    def _remove(self, place: str, why: str, size: int, remove: Callable[[], None]) -> None:
        log.event("would_remove" if self._dry_run else "removed", path=place, why=why, bytes=size)
        if not self._dry_run:
            remove()
        self.result["removed_bytes"] += size


def _belongs(name: str, run_keys: set[str]) -> bool:
    """Whether a directory belongs to one of the run keys, or to a trial or mapped training of one."""
    parts = name.split(RUN_KEY_SEPARATOR)
    keys = (RUN_KEY_SEPARATOR.join(parts[:number]) for number in range(1, len(parts) + 1))
    return any(key in run_keys for key in keys)
