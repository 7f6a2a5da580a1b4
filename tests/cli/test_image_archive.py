"""A node gets the layers that it lacks, and nothing else."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from trainyard_cli import image_archive

LAYERS = [b"base layer", b"packages", b"dags"]


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """What `docker save` of Docker 20.10 writes: the base layer occurs twice, the second time as a link."""
    config = json.dumps({"rootfs": {"diff_ids": [digest(each) for each in [*LAYERS, LAYERS[0]]]}}).encode()
    members = {f"{number}/layer.tar": layer for number, layer in enumerate(LAYERS)}
    names = [*members, "3/layer.tar"]
    members["config.json"] = config
    members["manifest.json"] = json.dumps([{"Config": "config.json", "Layers": names}]).encode()
    path = tmp_path / "image.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("3/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../0/layer.tar"
        archive.addfile(link)
    return path


def layout(saved: Path, present: set[str]) -> dict[str, bytes]:
    stream = io.BytesIO()
    image_archive.write(saved, "docker.io/trainyard/x:1", present, stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        names = archive.getnames()
        assert len(names) == len(set(names))
        return {name: archive.extractfile(name).read() for name in names}  # type: ignore[union-attr]


def blob(files: dict[str, bytes], described: dict) -> bytes:
    content = files["blobs/" + described["digest"].replace(":", "/")]
    assert (digest(content), len(content)) == (described["digest"], described["size"])
    return content


def test_whole_image_is_written_with_true_digests_and_sizes(saved: Path) -> None:
    files = layout(saved, set())
    index = json.loads(files["index.json"])["manifests"][0]
    assert index["annotations"] == {"io.containerd.image.name": "docker.io/trainyard/x:1"}
    manifest = json.loads(blob(files, index))
    assert [blob(files, each) for each in manifest["layers"]] == [*LAYERS, LAYERS[0]]
    assert "diff_ids" in json.loads(blob(files, manifest["config"]))["rootfs"]


def test_present_layers_are_named_but_not_sent(saved: Path) -> None:
    files = layout(saved, {digest(LAYERS[0]), digest(LAYERS[1])})
    manifest = json.loads(blob(files, json.loads(files["index.json"])["manifests"][0]))
    assert [each["digest"] for each in manifest["layers"]] == [digest(each) for each in [*LAYERS, LAYERS[0]]]
    sent = {content for name, content in files.items() if name.startswith("blobs/")} & set(LAYERS)
    assert sent == {LAYERS[2]}
