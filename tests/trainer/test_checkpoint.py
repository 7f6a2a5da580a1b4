import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from io import BytesIO

import pytest
import torch
from trainyard_trainer import dcp
from trainyard_trainer.checkpoint import KEEP, CheckpointStore
from trainyard_trainer.checkpoint_files import superseded
from trainyard_trainer.errors import BadConfig, BadData, Preempted, Temporary
from trainyard_trainer.storage import LocalDirectory

CONFIG = {"model": "digits", "learning_rate": 0.001}
SHARD, METADATA, MANIFEST = "__0_0.distcp", ".metadata", "manifest.json"


@pytest.fixture
def store(root) -> CheckpointStore:
    return CheckpointStore(root, CONFIG)


@pytest.fixture
def on_volume(tmp_path) -> CheckpointStore:
    return CheckpointStore(LocalDirectory(tmp_path), CONFIG)


def save(store: CheckpointStore, epoch: int, batch: int = 0) -> None:
    store.save(epoch, batch, {"progress": str(epoch), "weights": torch.full((1000,), float(epoch))})
    store.flush()


def save_as_0_1_0(store: CheckpointStore, epoch: int) -> str:
    """Write a checkpoint as the trainer of 0.1.0 did; return its name."""
    payload = BytesIO()
    torch.save({"progress": str(epoch), "optimizer": {0: {"step": torch.tensor(1.0)}}}, payload)
    header = {"sha256": hashlib.sha256(payload.getvalue()).hexdigest(), "config": CONFIG}
    name = f"epoch-{epoch:06d}-batch-000000.checkpoint"
    store.directory.publish(name, json.dumps(header).encode() + b"\n" + payload.getvalue())
    return name


def files(store: CheckpointStore) -> list[str]:
    return sorted(file.name for file in store.directory.files())


def names(store: CheckpointStore) -> list[str]:
    return sorted({name.partition("/")[0] for name in files(store)})


def change(store: CheckpointStore, file: str, how) -> None:
    """Change a file of the newest checkpoint."""
    directory = store.directory / names(store)[-1]
    directory.publish(file, how(directory.read(file)))


def with_right_hashes(store: CheckpointStore, file: str, content: bytes) -> None:
    """Replace a file of the newest checkpoint, and what the manifest says of it."""
    what = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def told(before: bytes) -> bytes:
        manifest = json.loads(before)
        manifest["files"][file] = what
        return json.dumps(manifest).encode()

    change(store, file, lambda _before: content)
    change(store, MANIFEST, told)


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
    assert files(store)[-3:] == [f"epoch-000010-batch-000003/{name}" for name in (METADATA, SHARD, MANIFEST)]


def test_a_state_comes_back_as_it_was(on_volume):
    state = {
        "order": torch.empty(0, dtype=torch.int64),
        "network": {"0.weight": torch.randn(3, 2), "half": torch.randn(4).to(torch.bfloat16)},
        "optimizer": {"0": {"step": torch.tensor(3.0), "columns": torch.randn(4, 6).T}},
        "random": torch.get_rng_state(),
    }
    on_volume.save(1, 0, {"progress": "1", **state, "nothing": {}})
    loaded = on_volume.latest()
    assert loaded.pop("progress") == "1"
    torch.testing.assert_close(loaded, state, rtol=0, atol=0)


def test_only_the_newest_are_kept(store):
    for epoch in range(1, KEEP + 3):
        save(store, epoch)
    assert len(names(store)) == KEEP
    assert latest(store) == str(KEEP + 2)


def test_a_parameter_that_a_checkpoint_does_not_know_had_its_default(root, store):
    save(store, 1)
    newer = CONFIG | {"schedule": "constant"}
    assert latest(CheckpointStore(root, newer, {"schedule": "constant"})) == "1"
    with pytest.raises(BadConfig, match="trained with schedule='constant', this run has schedule='cosine'"):
        CheckpointStore(root, newer | {"schedule": "cosine"}, {"schedule": "constant"}).latest()


def test_superseded_is_what_is_older_than_the_newest_that_is_whole(store):
    for epoch in range(1, KEEP + 1):
        save(store, epoch)
    change(store, SHARD, lambda content: content[:-1])
    assert sorted(superseded(store.directory)) == [name for name in files(store) if "epoch-000001" in name]


@pytest.mark.parametrize("file", [SHARD, METADATA, MANIFEST])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:20] + bytes([content[20] ^ 0x80]) + content[21:],
        lambda content: b"",
        lambda content: b"garbage" + content,
    ],
    ids=["truncated", "flipped", "empty", "longer"],
)
def test_a_damaged_one_falls_back(store, file, damage):
    save(store, 1)
    save(store, 2)
    change(store, file, damage)
    assert latest(store) == "1"


@pytest.mark.parametrize("file", [SHARD, METADATA, MANIFEST])
def test_one_with_a_missing_file_falls_back(store, file, caplog):
    save(store, 1)
    save(store, 2)
    store.directory.remove(f"{names(store)[-1]}/{file}")
    assert latest(store) == "1"
    assert "checkpoint_damaged" in caplog.messages


@pytest.mark.parametrize(
    "manifest",
    [
        [],
        {},
        {"config": CONFIG},
        {"config": CONFIG, "files": {SHARD: 1}},
        {"config": 1, "files": {}},
        {"config": CONFIG, "files": {"../x": {"bytes": 1, "sha256": ""}}},
    ],
)
def test_a_manifest_of_another_form_is_damage(on_volume, manifest):
    save(on_volume, 1)
    change(on_volume, MANIFEST, lambda _content: json.dumps(manifest).encode())
    assert on_volume.latest() is None


def test_all_damaged_is_nothing(store):
    save(store, 1)
    change(store, SHARD, lambda content: b"")
    assert store.latest() is None


def test_the_next_one_removes_what_is_damaged_and_what_was_not_completed(store):
    for epoch in range(1, KEEP + 2):
        save(store, epoch)
    for batch in range(1, KEEP + 1):  # killed while they were written
        store.directory.publish(f"epoch-{KEEP + 1:06d}-batch-{batch:06d}/{SHARD}", b"1")
    change(store, SHARD, lambda content: b"")
    save(store, KEEP + 1)
    assert latest(store) == str(KEEP + 1)
    assert names(store) == [f"epoch-{epoch:06d}-batch-000000" for epoch in range(2, KEEP + 2)]


def test_another_configuration_is_refused_by_its_key(store):
    save(store, 1)
    other = CheckpointStore(store.directory, CONFIG | {"learning_rate": 0.1})
    with pytest.raises(BadConfig, match=r"learning_rate=0\.001, this run has learning_rate=0\.1"):
        other.latest()


def test_starting_over_removes_all(store):
    save_as_0_1_0(store, 1)
    save(store, 2)
    store.clear()
    assert store.latest() is None
    assert files(store) == []


def test_starting_over_leaves_no_directory(on_volume):
    save(on_volume, 1)
    on_volume.clear()
    assert list(on_volume.directory.path.iterdir()) == []


# ---- asynchronous


@pytest.fixture
def disk(monkeypatch):
    """A disk that does not write before it is told to."""
    goes_on, fsync = threading.Event(), os.fsync

    def slow(descriptor) -> None:
        assert goes_on.wait(60)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    yield goes_on
    goes_on.set()


def test_training_goes_on_while_the_disk_writes(on_volume, disk):
    weights = torch.ones(1000)
    on_volume.save(1, 0, {"progress": "1", "weights": weights})
    weights.zero_()
    assert MANIFEST not in [name.rpartition("/")[2] for name in files(on_volume)]
    disk.set()
    assert torch.equal(on_volume.latest()["weights"], torch.ones(1000))


def test_one_at_a_time_is_written(on_volume, disk):
    on_volume.save(1, 0, {"progress": "1"})
    second = threading.Thread(target=on_volume.save, args=(2, 0, {"progress": "2"}))
    second.start()
    second.join(0.5)
    assert second.is_alive()
    disk.set()
    second.join(60)
    on_volume.flush()
    assert latest(on_volume) == "2"
    assert len(names(on_volume)) == 2


def no_space(_descriptor) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def open_full(**_options) -> tuple[int, str]:
    return os.open("/dev/full", os.O_WRONLY), "/dev/shm/no-such-file"


@pytest.mark.parametrize("call", ["save", "flush"])
@pytest.mark.parametrize("full", [(os, "fsync", no_space), (tempfile, "mkstemp", open_full)])
def test_a_full_disk_is_told_by_the_next_call_and_keeps_the_one_before(on_volume, monkeypatch, full, call):
    save(on_volume, 1)
    with monkeypatch.context() as patched:
        patched.setattr(*full)
        on_volume.save(2, 0, {"progress": "2", "weights": torch.ones(1 << 20)})
        with pytest.raises(Temporary, match="epoch-000002-batch-000000: no space left on the volume"):
            on_volume.flush() if call == "flush" else on_volume.save(3, 0, {"progress": "3"})
    assert names(on_volume) == ["epoch-000001-batch-000000"]
    assert latest(on_volume) == "1"
    save(on_volume, 2)
    assert latest(on_volume) == "2"


# Prints how much more memory saving took at its peak, as a part of the state's size.
PEAK = """
import resource, sys
import torch
from trainyard_trainer.checkpoint import CheckpointStore
from trainyard_trainer.storage import LocalDirectory

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

store = CheckpointStore(LocalDirectory(__import__("pathlib").Path(sys.argv[1])), {})
state = {str(number): torch.ones(16 << 20) for number in range(6)}
before = peak()
for epoch in range(4):
    store.save(epoch, 0, state)
store.flush()
print((peak() - before) / sum(one.nbytes for one in state.values()))
"""


def test_saving_takes_little_more_memory_than_a_copy(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert 0.5 < float(printed) < 1.2  # a copy is measured at all, and not two


# ---- manipulated


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_manipulated_metadata_runs_no_code(on_volume, tmp_path):
    save(on_volume, 1)
    sign = tmp_path / "ran"
    with_right_hashes(on_volume, METADATA, pickle.dumps(Evil(sign)))
    with pytest.raises(BadData, match="cannot be loaded"):
        on_volume.latest()
    assert not sign.exists()


def test_what_is_no_tensor_runs_no_code(on_volume, tmp_path):
    sign = tmp_path / "ran"
    on_volume.save(1, 0, {"progress": Evil(sign)})
    with pytest.raises(BadData):
        on_volume.latest()
    assert not sign.exists()


def test_no_file_that_the_manifest_does_not_name_is_read(on_volume, tmp_path):
    dcp.save({"progress": "secret"}, LocalDirectory(tmp_path / "elsewhere"))
    save(on_volume, 1)
    name = names(on_volume)[0]
    other = pickle.loads((on_volume.directory / name).read(METADATA))
    for info in other.storage_data.values():
        info.relative_path = f"../elsewhere/{SHARD}"
    with_right_hashes(on_volume, METADATA, pickle.dumps(other))
    with pytest.raises(BadData):
        on_volume.latest()


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({}), pickle.dumps(None)])
def test_what_is_no_metadata_is_bad_data_that_names_the_checkpoint(on_volume, content):
    save(on_volume, 1)
    with_right_hashes(on_volume, METADATA, content)
    with pytest.raises(BadData, match="epoch-000001-batch-000000 has the hashes of its manifest"):
        on_volume.latest()


def test_a_sigterm_while_it_is_read_stays_one(on_volume, monkeypatch):
    save(on_volume, 1)

    def stopped(*_arguments, **_options):
        raise Preempted

    monkeypatch.setattr(dcp._Planner, "load_bytes", stopped)
    with pytest.raises(Preempted):
        on_volume.latest()


# ---- of 0.1.0


def test_one_of_0_1_0_is_read(store):
    save_as_0_1_0(store, 1)
    name = save_as_0_1_0(store, 2)
    assert store.latest()["optimizer"] == {0: {"step": torch.tensor(1.0)}}
    assert latest(store) == "2"
    assert superseded(store.directory) == [name.replace("2", "1")]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: b"",
        lambda content: content.replace(b"\n", b" ", 1),
    ],
    ids=["truncated", "flipped", "empty", "one-line"],
)
def test_a_damaged_one_of_0_1_0_falls_back(store, damage):
    save_as_0_1_0(store, 1)
    name = save_as_0_1_0(store, 2)
    store.directory.publish(name, damage(store.directory.read(name)))
    assert latest(store) == "1"


def test_those_of_0_1_0_count_as_others_do(store):
    save_as_0_1_0(store, 1)
    for epoch in range(2, KEEP + 2):
        save(store, epoch)
    assert len(names(store)) == KEEP
    assert latest(store) == str(KEEP + 1)
