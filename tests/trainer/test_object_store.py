"""Lake, checkpoints and artifacts in the platform's own object store, which runs beside the tests."""

import json
import signal

import pytest
from conftest import Steps
from test_resume import done, finish, interrupt
from trainyard_contract import DELIVERY_MARKER
from trainyard_trainer import storage
from trainyard_trainer.errors import BadConfig, storage_error

MEBIBYTE = 1 << 20


@pytest.fixture
def store(bucket_uri: str) -> storage.Directory:
    return storage.directory(bucket_uri)


@pytest.fixture
def object_steps(steps: Steps, bucket_uri: str) -> Steps:
    steps.object_uri = bucket_uri
    return steps


def test_names_are_kept_as_they_are(store):
    name = "date=2026-01-31/scheduled__2026-01-31T00:00:00+00:00@a.b/f.npy"
    store.publish(name, b"12345")
    (file,) = store.files()
    assert (file.name, file.bytes) == (name, 5)
    assert store.directories() == ["date=2026-01-31"]
    assert (store / "date=2026-01-31").directories() == ["scheduled__2026-01-31T00:00:00+00:00@a.b"]
    assert (store / "date=2026-01-31").read(name.partition("/")[2]) == b"12345"


def test_a_prefix_is_no_other_ones_start(store):
    (store / "run-1").publish("a", b"")
    (store / "run-12").publish("b", b"")
    assert [file.name for file in (store / "run-1").files()] == ["a"]
    (store / "run-1").remove_all()
    assert [file.name for file in store.files()] == ["run-12/b"]


def test_what_is_large_goes_in_parts_and_is_there_as_a_whole(store):
    content = bytes(range(256)) * (40 * MEBIBYTE // 256)
    store.publish("large", content)
    assert store.read("large") == content
    store.publish("large", content[:-1])
    assert [file.bytes for file in store.files()] == [len(content) - 1]


def test_what_is_not_there_may_be_removed(store):
    store.remove("nothing")
    store.remove_all()
    assert (store.files(), store.directories(), store.age()) == ([], [], 0)
    with pytest.raises(FileNotFoundError):
        store.read("nothing")


def write(store: storage.Directory, name: str, *parts: bytes) -> None:
    with store.writer(name) as stream:
        for part in parts:
            stream.write(part)


@pytest.mark.parametrize("size", [0, 5, MEBIBYTE, 40 * MEBIBYTE])
def test_what_is_written_bit_by_bit_is_read_alike(store, size: int):
    content = bytes(range(256)) * (size // 256) + b"end"
    reused = bytearray(content)
    with store.writer("large") as stream:
        stream.write(memoryview(reused))
        reused[:] = bytes(len(reused))  # as torch does with its buffers
        assert store.files() == []
        stream.write(b"")
        stream.write(b"more")
    store.rename("large", "other")
    with store.reader("other") as copy:
        assert copy.read() == content + b"more"
        copy.seek(3)
        assert copy.read(2) == (content + b"more")[3:5]
    assert [file.name for file in store.files()] == ["other"]


@pytest.mark.parametrize("size", [5, 40 * MEBIBYTE])
def test_a_write_that_broke_off_is_no_object(store, size: int):
    with pytest.raises(ZeroDivisionError), store.writer("broken") as stream:
        stream.write(bytes(size))
        raise ZeroDivisionError
    assert store.files() == []


CALLS = {
    "publish": lambda store: store.publish("a", b""),
    "write": lambda store: write(store, "a", b"1"),
    "write much": lambda store: write(store, "a", bytes(40 * MEBIBYTE)),
    "read": lambda store: store.read("a"),
    "open": lambda store: store.reader("a").__enter__(),
    "rename": lambda store: store.rename("a", "b"),
    "files": lambda store: store.files(),
    "directories": lambda store: store.directories(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", [{"AWS_SECRET_ACCESS_KEY": "other"}, {"bucket": "no-such-bucket"}])
def test_wrong_keys_and_buckets_are_not_tried_again(store, monkeypatch, wrong: dict[str, str], call: str):
    bucket = wrong.get("bucket", store.bucket)
    for name in wrong.keys() - {"bucket"}:
        monkeypatch.setenv(name, wrong[name])
    storage._store.cache_clear()
    with pytest.raises((PermissionError, FileNotFoundError)) as raised:
        CALLS[call](storage.ObjectDirectory(bucket, "x"))
    assert isinstance(storage_error("reaching", bucket, raised.value), BadConfig)


def test_a_killed_training_resumes_from_its_checkpoint(
    object_steps: Steps, bucket_uri: str, store, processed: str, undisturbed
):
    """From raw data to the report, and the clean-up: nothing but the result is a file."""
    source = storage.local_path(processed).parents[4] / "digits.npz"
    store.publish("incoming/digits.npz", source.read_bytes())
    raw = object_steps.run("validate", f"{bucket_uri}/incoming/digits.npz")
    assert raw.code == 0, raw.text
    assert raw.result["dataset"].startswith(f"{bucket_uri}/lake/raw/digits/date=")
    dataset = object_steps.run("preprocess", raw.result["dataset"]).result["dataset"]

    killed = interrupt(object_steps, dataset, signal.SIGKILL, done(6), frequency="5")
    assert killed.code == -signal.SIGKILL
    assert finish(object_steps, dataset, undisturbed).result["resumed_from_epoch"] == 5
    assert not object_steps.checkpoints.exists() and not object_steps.output.exists()

    report = object_steps.run("evaluate", dataset)
    assert report.result["output"] == f"{bucket_uri}/output/evaluation.json"
    assert json.loads(store.read("output/evaluation.json"))["model_uri"] == report.result["model_uri"]
    assert "output/MLmodel" in {file.name for file in store.files()}

    cleaned = object_steps.run("clean", f"{bucket_uri}/checkpoints", params={"finished": True})
    assert cleaned.result["removed"] == 1 and cleaned.result["removed_files"] >= 2
    assert (store / "checkpoints").files() == []


def test_a_run_that_failed_keeps_what_it_resumes_from(object_steps: Steps, bucket_uri, store, processed):
    assert object_steps.run("train", processed, params={"epochs": 6}).code == 0
    ended = object_steps.run("clean", f"{bucket_uri}/checkpoints")
    assert ended.code == 0, ended.text
    left = {file.name.split("/")[1] for file in (store / "checkpoints").files()}
    assert left == {"epoch-000006-batch-000000"}


def test_old_checkpoints_go_and_young_ones_stay(object_steps: Steps, bucket_uri, store):
    (store / "checkpoints/abandoned").publish("epoch-000001-batch-000000/manifest.json", b"12345")
    kept = object_steps.run("clean", f"{bucket_uri}/checkpoints", params={"older_than_days": 1})
    assert (kept.result["kept"], kept.result["removed"]) == (1, 0)
    gone = object_steps.run("clean", f"{bucket_uri}/checkpoints", params={"older_than_days": 0})
    assert (gone.result["removed"], gone.result["removed_bytes"]) == (1, 5)


def test_delivered_data_is_read_by_the_directory(object_steps: Steps, bucket_uri, store):
    params = {"model": "fraud", "date": "2026-03-01"}
    delivered = object_steps.run("generate", "generator://transactions?rows=2000", params=params)
    assert delivered.code == 0, delivered.text
    assert {file.name for file in (store / "output").files()} == {"transactions.csv", DELIVERY_MARKER}
    raw = object_steps.run("validate", f"{bucket_uri}/output", params=params)
    assert raw.code == 0, raw.text
    assert raw.result["rows"] == 2000
