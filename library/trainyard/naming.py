"""Names, labels and keys of a task in Kubernetes, on volumes and in MLflow."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from trainyard_contract import RUN_KEY_SEPARATOR

LABEL_PREFIX = "trainyard.dev"
TASK_INSTANCE = f"{LABEL_PREFIX}/task-instance"  # label: Airflow's UUID of the try that waits for the pod
TRY = f"{LABEL_PREFIX}/try"  # label: its number
# The same of pods that older releases made without a Job. After a rollback they end what has another label,
# and go on from the checkpoint: with this one they would start a second pod beside it.
OLDER_TRY = f"{LABEL_PREFIX}/try-number"
ATTEMPT = f"{LABEL_PREFIX}/attempt"
RELEASE = f"{LABEL_PREFIX}/release"  # label: whose Airflow that is
MLFLOW_LINK_XCOM = "_link_mlflow_run"  # the link of a training task to its MLflow run
CONTAINER = "trainer"  # the one container of a training pod
MAX_LABEL = 63  # characters, for label values and names of Jobs alike
MAX_DIRECTORY_NAME = 120  # shorter than the contract's run keys: suffixes are added


@dataclass(frozen=True)
class TaskIdentity:
    """One try of one task instance; `map_index` is -1 for a task that is not mapped.

    `mapped_group` is the id of the mapped task group that it is in, if there is one. `uid` is Airflow's UUID
    of the try: a cleared task has another one, and so has a run that was deleted and made again.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    mapped_group: str = ""
    uid: str = ""

    def labels(self) -> dict[str, str]:
        """The labels of all pods of this task instance, for every try."""
        return {
            "app.kubernetes.io/managed-by": "trainyard",
            f"{LABEL_PREFIX}/dag-id": label_safe(self.dag_id),
            f"{LABEL_PREFIX}/run-id": label_safe(self.run_id),
            f"{LABEL_PREFIX}/task-id": label_safe(self.task_id),
            f"{LABEL_PREFIX}/map-index": label_safe(str(self.map_index)),
        }

    def selector(self) -> str:
        """The label selector for all pods of this task instance."""
        return selector(self.labels())

    def try_labels(self) -> dict[str, str]:
        """The labels of all pods of this try."""
        uid = {TASK_INSTANCE: self.uid} if self.uid else {}
        return {**self.labels(), TRY: str(self.try_number), **uid}

    def try_selector(self) -> str:
        """The label selector for all pods of this try."""
        which = {TASK_INSTANCE: self.uid} if self.uid else {TRY: str(self.try_number)}
        return selector({**self.labels(), **which})

    def has_made(self, labels: Mapping[str, str]) -> bool:
        """Whether an object of this task instance, with these labels, is of this try."""
        number = labels.get(TRY, labels.get(OLDER_TRY))
        # What an older release made may have no UUID.
        return number == str(self.try_number) and labels.get(TASK_INSTANCE, self.uid) == self.uid

    def run_key(self) -> str:
        """The key of the MLflow run and of the checkpoints.

        It is the DAG run's, a mapped task's own, or that of the instance of a mapped task group.
        """
        key = run_key(self.dag_id, self.run_id)
        if self.map_index < 0:
            return key
        return safe_key(f"{key}{RUN_KEY_SEPARATOR}{self.mapped_group or self.task_id}-{self.map_index}")

    def job_name(self, attempt: int, nodes: int = 0) -> str:
        """The name of an attempt's Job. It is deterministic, so that a restarted triggerer finds the Job.

        With `nodes`, the hostnames of its pods, `NAME-INDEX`, are DNS labels as well.
        """
        identity = "\n".join(map(str, (*self.labels().values(), self.run_id, self.try_number)))
        tail = f"-{_digest(identity)}-{attempt}"
        index = f"-{nodes - 1}" if nodes else ""
        head = re.sub(r"[^a-z0-9]+", "-", f"{self.dag_id}-{self.task_id}".lower()).strip("-") or "task"
        return head[: MAX_LABEL - len(tail + index)].rstrip("-") + tail


def selector(labels: Mapping[str, str]) -> str:
    """Return the label selector for what has all of these labels."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def run_key(dag_id: str, run_id: str) -> str:
    """Return the key that all steps of a DAG run share: one MLflow run, one checkpoint directory."""
    key = f"{dag_id}{RUN_KEY_SEPARATOR}{run_id}"
    # Run ids have the separator: with one in the DAG's id as well, `a__b` and `c` would be `a` and `b__c`.
    if RUN_KEY_SEPARATOR in f"{dag_id}_":
        return _with_digest(safe_key(key), f"{dag_id}\n{run_id}", MAX_DIRECTORY_NAME)
    return safe_key(key)


def safe_key(text: str) -> str:
    """Make `text` a valid directory name; a hash keeps the names of different texts distinct."""
    # A run key begins with a letter or digit.
    return _distinct(_ascii(text).rstrip("-.").lstrip("-._"), text, MAX_DIRECTORY_NAME)


def label_safe(text: str) -> str:
    """Make `text` a valid label value (63 characters, alphanumeric at both ends)."""
    # "-1", the map index of a task that is not mapped, would lose its dash and become "1".
    text = "none" if text == "-1" else text
    return _distinct(_ascii(text).strip("-_."), text, MAX_LABEL)


def _ascii(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)


def _distinct(name: str, text: str, length: int) -> str:
    """The name, with a hash of `text` unless it is that and fits."""
    return name if name == text and len(name) <= length else _with_digest(name, text, length)


def _with_digest(name: str, text: str, length: int) -> str:
    """Cut a name to `length` with a hash of `text`; where no letter is left of it, it is the hash."""
    return f"{name[: length - 9].rstrip('-_.')}-{_digest(text)}".lstrip("-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
