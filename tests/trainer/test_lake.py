import errno
import json
import os

import numpy as np
import pytest
from trainyard_trainer import lake, storage
from trainyard_trainer.errors import BadConfig, BadData, Temporary

COLUMNS = {"images": np.arange(12.0).reshape(3, 2, 2), "labels": np.array([0, 1, 1])}


def write(root: storage.Directory, columns=COLUMNS) -> lake.Dataset:
    return lake.write(root.uri, "raw", "digits", "2026-01-31", columns, rows=3, parent="test://")


def files(root: storage.Directory) -> dict[str, float]:
    """Every file with the time of its last change."""
    return {file.name: file.modified for file in root.files()}


def test_what_is_written_is_read(root):
    dataset = write(root)
    columns, read = lake.read(dataset.uri)
    assert read == dataset
    assert columns.keys() == COLUMNS.keys()
    for name, values in COLUMNS.items():
        np.testing.assert_array_equal(columns[name], values)
    assert dataset.manifest["schema"]["images"] == {"dtype": "float64", "shape": [3, 2, 2]}


def test_inputs_can_stay_in_their_files(root, tmp_path):
    inputs = {"train_inputs": np.arange(6.0).reshape(3, 2), "train_labels": np.array([0, 1, 1])}
    dataset = write(root, inputs)
    columns, read = lake.read(dataset.uri, mapped_in=tmp_path)
    assert read == dataset
    assert {name: type(values) for name, values in columns.items()} == {
        "train_inputs": np.memmap,
        "train_labels": np.ndarray,
    }
    np.testing.assert_array_equal(columns["train_inputs"], inputs["train_inputs"])
    storage.directory(dataset.uri).publish("train_inputs.npy", b"other")
    with pytest.raises(BadData, match=r"the SHA-256 of train_inputs\.npy"):
        lake.read(dataset.uri, mapped_in=tmp_path)
    storage.directory(dataset.uri).remove("train_inputs.npy")
    with pytest.raises(BadData, match=r"train_inputs\.npy is missing"):
        lake.read(dataset.uri, mapped_in=tmp_path)


def test_the_version_is_the_content(root):
    dataset = write(root)
    assert dataset.uri == f"{root.uri}/raw/digits/date=2026-01-31/version={dataset.sha256[:12]}"
    assert write(root, COLUMNS | {"labels": np.array([0, 1, 2])}).uri != dataset.uri


def test_writing_again_changes_nothing(root):
    dataset, before = write(root), files(root)
    assert write(root) == dataset
    assert files(root) == before


def test_without_its_manifest_there_is_no_dataset_yet(root):
    """It is written last: what a writer leaves that was ended is no dataset, and the next makes it one."""
    dataset = write(root)
    storage.directory(dataset.uri).remove(lake.MANIFEST)
    with pytest.raises(BadData, match="there is no dataset"):
        lake.read(dataset.uri)
    assert write(root) == dataset
    assert lake.read(dataset.uri)[1] == dataset


def test_writing_again_mends_a_damaged_dataset(root):
    dataset, before = write(root), files(root)
    storage.directory(dataset.uri).remove("labels.npy")
    assert write(root) == dataset
    assert lake.read(dataset.uri)[1] == dataset
    assert files(root).keys() == before.keys()


def test_of_two_writers_at_once_both_write_the_same(root, monkeypatch):
    """The second has looked before the first was done."""
    first, before = write(root), files(root)
    monkeypatch.setattr(lake, "_is_intact", lambda uri: False)
    assert write(root) == first
    assert lake.read(first.uri)[1] == first
    assert files(root).keys() == before.keys()


def test_a_changed_file_is_refused(root):
    dataset = write(root)
    storage.directory(dataset.uri).publish("labels.npy", b"other")
    with pytest.raises(BadData, match=r"the SHA-256 of labels\.npy"):
        lake.read(dataset.uri)


def test_a_changed_manifest_is_refused(root):
    dataset = write(root)
    place = storage.directory(dataset.uri)
    content = json.loads(place.read("manifest.json"))
    content["files"]["labels.npy"] = "0" * 64
    place.publish("manifest.json", json.dumps(content).encode())
    with pytest.raises(BadData, match="does not match its version"):
        lake.read(dataset.uri)


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_a_damaged_manifest_is_refused(root, content):
    dataset = write(root)
    storage.directory(dataset.uri).publish("manifest.json", content.encode())
    with pytest.raises(BadData, match="damaged"):
        lake.read(dataset.uri)


def test_no_dataset_is_said(root):
    with pytest.raises(BadData, match="there is no dataset"):
        lake.read(f"{root.uri}/raw/digits")


@pytest.mark.parametrize(
    "uri", ["gs://bucket/data", "s3://", "s3://bucket//data", "/data", "file://host/data", "file:data", ""]
)
def test_other_uris_are_refused(uri):
    with pytest.raises(BadConfig, match=r"cannot use the URI .*s3://BUCKET/PREFIX"):
        storage.directory(uri)


def test_a_full_disk_is_temporary_and_leaves_nothing(tmp_path, monkeypatch):
    root = storage.LocalDirectory(tmp_path / "lake")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Temporary, match="no space left"):
        write(root)
    assert files(root) == {}
    monkeypatch.undo()
    assert lake.read(write(root).uri)


def test_a_root_that_cannot_be_written_to_is_a_wrong_config(tmp_path):
    (tmp_path / "lake").write_text("a file")
    with pytest.raises(BadConfig):
        write(storage.LocalDirectory(tmp_path / "lake"))
