import errno
import os

import pytest
import torch
from trainyard_trainer.checkpoint import KEEP, CheckpointStore
from trainyard_trainer.errors import BadConfig, Temporary
from trainyard_trainer.storage import LocalDirectory

CONFIG = {"model": "digits", "learning_rate": 0.001}


@pytest.fixture
def store(root) -> CheckpointStore:
    return CheckpointStore(root, CONFIG)


def save(store: CheckpointStore, epoch: int, batch: int = 0) -> None:
    store.save(epoch, batch, {"progress": str(epoch), "weights": torch.full((1000,), float(epoch))})


def names(store: CheckpointStore) -> list[str]:
    return sorted(file.name for file in store.directory.files())


def change_newest(store: CheckpointStore, change) -> None:
    name = names(store)[-1]
    store.directory.publish(name, change(store.directory.read(name)))


def latest(store: CheckpointStore) -> str | None:
    state = store.latest()
    return state and state["progress"]


def test_nothing_saved_is_nothing(store):
    assert store.latest() is None


def test_the_newest_is_read(store):
    save(store, 9)
    save(store, 10)
    save(store, 10, batch=3)
    state = store.latest()
    assert state["progress"] == "10"
    assert torch.equal(state["weights"], torch.full((1000,), 10.0))


def test_only_the_newest_are_kept(store):
    for epoch in range(1, KEEP + 3):
        save(store, epoch)
    assert len(names(store)) == KEEP
    assert latest(store) == str(KEEP + 2)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: b"",
        lambda content: b"garbage" + content,
        lambda content: content.replace(b"\n", b" ", 1),
    ],
    ids=["truncated", "flipped", "empty", "header", "one-line"],
)
def test_a_damaged_one_falls_back(store, damage):
    save(store, 1)
    save(store, 2)
    change_newest(store, damage)
    assert latest(store) == "1"


def test_all_damaged_is_nothing(store):
    save(store, 1)
    change_newest(store, lambda content: b"")
    assert store.latest() is None


def test_another_configuration_is_refused_by_its_key(store):
    save(store, 1)
    other = CheckpointStore(store.directory, CONFIG | {"learning_rate": 0.1})
    with pytest.raises(BadConfig, match=r"learning_rate=0\.001, this run has learning_rate=0\.1"):
        other.latest()


def test_starting_over_removes_all(store):
    save(store, 1)
    store.clear()
    assert store.latest() is None


def test_a_full_disk_keeps_the_one_before(tmp_path, monkeypatch):
    store = CheckpointStore(LocalDirectory(tmp_path), CONFIG)
    save(store, 1)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Temporary, match="no space left on the volume"):
        save(store, 2)
    monkeypatch.undo()
    assert len(names(store)) == 1
    assert latest(store) == "1"
