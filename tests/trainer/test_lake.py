import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from trainyard_trainer import lake
from trainyard_trainer.errors import BadConfig, BadData, Temporary

COLUMNS = {"images": np.arange(12.0).reshape(3, 2, 2), "labels": np.array([0, 1, 1])}


@pytest.fixture
def root(tmp_path: Path) -> str:
    return (tmp_path / "lake").as_uri()


def write(root: str, columns=COLUMNS) -> lake.Dataset:
    return lake.write(root, "raw", "digits", "2026-01-31", columns, rows=3, parent="test://")


def path(dataset: lake.Dataset) -> Path:
    return lake.local_path(dataset.uri)


def test_what_is_written_is_read(root):
    dataset = write(root)
    columns, read = lake.read(dataset.uri)
    assert read == dataset
    assert columns.keys() == COLUMNS.keys()
    for name, values in COLUMNS.items():
        np.testing.assert_array_equal(columns[name], values)
    assert dataset.manifest["schema"]["images"] == {"dtype": "float64", "shape": [3, 2, 2]}


def test_the_version_is_the_content(root):
    dataset = write(root)
    assert dataset.uri == f"{root}/raw/digits/date=2026-01-31/version={dataset.sha256[:12]}"
    assert write(root, COLUMNS | {"labels": np.array([0, 1, 2])}).uri != dataset.uri


def test_writing_again_changes_nothing(root):
    dataset = write(root)
    before = {file: file.stat().st_mtime_ns for file in path(dataset).iterdir()}
    assert write(root) == dataset
    assert {file: file.stat().st_mtime_ns for file in path(dataset).iterdir()} == before
    assert [file.name for file in path(dataset).parent.iterdir()] == [path(dataset).name]


def test_writing_again_mends_a_damaged_dataset(root):
    dataset = write(root)
    (path(dataset) / "labels.npy").unlink()
    assert write(root) == dataset
    assert lake.read(dataset.uri)[1] == dataset
    assert [file.name for file in path(dataset).parent.iterdir()] == [path(dataset).name]


def test_of_two_writers_at_once_the_first_ones_stays(root, monkeypatch):
    """The second has looked before the first was done."""
    first = write(root)
    (path(first) / "first").touch()
    first_look, intact = iter([False]), lake._is_intact
    monkeypatch.setattr(lake, "_is_intact", lambda uri: next(first_look, intact(uri)))
    assert write(root) == first
    assert (path(first) / "first").exists()
    assert [file.name for file in path(first).parent.iterdir()] == [path(first).name]


def test_a_changed_file_is_refused(root):
    dataset = write(root)
    np.save(path(dataset) / "labels.npy", np.array([1, 1, 1]))
    with pytest.raises(BadData, match=r"the SHA-256 of labels\.npy"):
        lake.read(dataset.uri)


def test_a_changed_manifest_is_refused(root):
    dataset = write(root)
    manifest = path(dataset) / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["labels.npy"] = "0" * 64
    manifest.write_text(json.dumps(content))
    with pytest.raises(BadData, match="does not match its version"):
        lake.read(dataset.uri)


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_a_damaged_manifest_is_refused(root, content):
    dataset = write(root)
    (path(dataset) / "manifest.json").write_text(content)
    with pytest.raises(BadData, match="damaged"):
        lake.read(dataset.uri)


def test_no_dataset_is_said(root):
    with pytest.raises(BadData, match="there is no dataset"):
        lake.read(root + "/raw/digits")


@pytest.mark.parametrize("uri", ["s3://bucket/data", "/data", "file://host/data", "file:data", ""])
def test_other_uris_are_refused(uri):
    with pytest.raises(BadConfig, match="file:///an/absolute/path"):
        lake.local_path(uri)


def test_a_full_disk_is_temporary_and_leaves_nothing(root, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Temporary, match="no space left"):
        write(root)
    assert not [file for file in lake.local_path(root).rglob("*") if file.is_file()]
    monkeypatch.undo()
    assert lake.read(write(root).uri)


def test_a_root_that_cannot_be_written_to_is_a_wrong_config(tmp_path):
    (tmp_path / "lake").write_text("a file")
    with pytest.raises(BadConfig):
        write((tmp_path / "lake").as_uri())
